"""Embeddings of many prompts as one generation."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest

from deployments.gateway.admission_gate import AdmissionGate
from deployments.gateway.embedding import EmbeddingGeneration, check_length, check_task
from deployments.gateway.served_model import ServedModel
from deployments.gateway.tokenizer import Tokenizer
from deployments.settings import ModelSection
from deployments.types import Delta, Embedding, RequestId
from infra.errors import (
    CapacityError,
    DeadlineError,
    InvalidArgumentError,
    PromptTooLongError,
    UnknownMethodError,
)
from router.admission import Admission
from router.model_queue import Demand
from router.settings import AdmissionSection, RouterSection, TenantSection
from router.tenants import Tenants
from router.types import TenantId


class OnePrompt:
    """A `Generation` of one vector: its own number."""

    num_open = 0
    max_open = 0

    def __init__(self, number: int, delay_s: float = 0.0, error: Exception | None = None):
        self.request_id = RequestId("r")
        self.model = "m"
        self.num_prompt_tokens = number
        self.queue_s = delay_s
        self.has_begun = True
        self.resumes = ()
        self.delay_s = delay_s
        self.error = error

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        OnePrompt.num_open += 1
        OnePrompt.max_open = max(OnePrompt.max_open, OnePrompt.num_open)
        try:
            await asyncio.sleep(self.delay_s)
            if self.error is not None:
                raise self.error
            vector = bytes([self.num_prompt_tokens])
            yield Embedding(index=0, text="", token_ids=[], finish_reason="stop", vector=vector)
        finally:
            OnePrompt.num_open -= 1


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    OnePrompt.max_open = OnePrompt.num_open = 0


async def vectors(*prompts: OnePrompt, timeout_s: float = 5.0) -> list[tuple[int, bytes]]:
    generation = EmbeddingGeneration(prompts, timeout_s, lambda _: nullcontext())
    try:
        found = [delta async for delta in generation.deltas()]
    finally:
        assert OnePrompt.num_open == 0
    return [(each.index, each.vector) for each in found if isinstance(each, Embedding)]


async def test_vectors_come_in_the_order_of_the_prompts_whatever_ends_first() -> None:
    prompts = [OnePrompt(number, delay_s=0.02 - number / 1000) for number in range(20)]
    assert await vectors(*prompts) == [(number, bytes([number])) for number in range(20)]
    generation = EmbeddingGeneration(prompts, 5.0, lambda _: nullcontext())
    assert (generation.num_prompt_tokens, generation.queue_s) == (sum(range(20)), 0.0)


async def test_all_prompts_are_admitted_as_one_request_before_any_work() -> None:
    tenant = TenantSection(name="a", requests_per_minute=1, max_concurrent_requests=1)
    section = AdmissionSection()
    gate = AdmissionGate(Admission(section, Tenants([tenant])), section, lambda _: 1)
    gate.set_places("m", 8)
    demand = Demand("m", TenantId("a"), "normal", num_prompt_tokens=300, num_outputs=32)
    prompts = [OnePrompt(number, 0.001) for number in range(100)]
    generation = EmbeddingGeneration(prompts, 5.0, partial(gate.admitted, demand))
    assert len([delta async for delta in generation.deltas()]) == 100
    OnePrompt.max_open = 0
    again = EmbeddingGeneration(prompts, 5.0, partial(gate.admitted, demand))
    with pytest.raises(CapacityError, match="requests per minute"):
        await anext(again.deltas())
    assert OnePrompt.max_open == gate.num_taken("m") == 0


async def test_a_request_of_many_prompts_does_not_have_all_of_them_under_way() -> None:
    found = await vectors(*(OnePrompt(number, 0.001) for number in range(200)))
    assert len(found) == 200
    assert OnePrompt.max_open == 32


async def test_one_failure_ends_the_others_and_is_told() -> None:
    with pytest.raises(CapacityError, match="full"):
        await vectors(OnePrompt(1, 60), OnePrompt(2, error=CapacityError("full")))


async def test_a_failure_of_ours_is_told_as_such() -> None:
    with pytest.raises(RuntimeError, match="oops"):
        await vectors(OnePrompt(1, 60), OnePrompt(2, error=RuntimeError("oops")))


async def test_all_prompts_together_have_one_deadline() -> None:
    with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
        await vectors(*(OnePrompt(number, 0.03) for number in range(200)), timeout_s=0.05)


async def test_leaving_ends_all() -> None:
    task = asyncio.create_task(vectors(*(OnePrompt(number, 60) for number in range(9))))
    while OnePrompt.num_open < 9:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("num_tokens", "error"),
    [(0, InvalidArgumentError), (1, None), (100, None), (101, PromptTooLongError)],
)
def test_a_prompt_may_fill_the_context(num_tokens: int, error: type[Exception] | None) -> None:
    if error is None:
        check_length(num_tokens, max_model_len=100)
    else:
        with pytest.raises(error):
            check_length(num_tokens, max_model_len=100)


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_a_model_that_embeds_is_none_to_chat_with(task: str) -> None:
    templates = {"has_chat_template": True, "has_tool_template": True}
    tokenizer = cast(Tokenizer, SimpleNamespace(vocab_size=9, **templates))
    section = ModelSection.model_validate({"name": "m", "model": "some/model", "task": task})
    (card,) = ServedModel(section, tokenizer, "token", RouterSection()).cards()
    generates = task == "generate"
    assert (card.task, card.has_chat_template, card.has_tool_template) == (
        task,
        generates,
        generates,
    )


def test_a_model_does_its_own_task_alone() -> None:
    generates = ModelSection(name="g", model="some/model")
    embeds = ModelSection(name="e", model="some/model", task="embed")
    check_task(generates, "g", is_embedding=False)
    check_task(embeds, "e", is_embedding=True)
    with pytest.raises(UnknownMethodError, match="g is served to generate text"):
        check_task(generates, "g", is_embedding=True)
    with pytest.raises(
        UnknownMethodError,
        match=r"e is served for embeddings alone; .*Inference/Embed over gRPC",
    ):
        check_task(embeds, "e", is_embedding=False)

"""Several prompts in one completions request."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.gateway.openai.several_prompts import SeveralPrompts
from deployments.gateway.service import Prompt
from deployments.types import CallOptions, Delta, Sampling
from infra.errors import EngineError, InvalidArgumentError
from tests.builders.fake_service import FakeGeneration, FakeService, RecordedCall, text_deltas
from tests.deployments.gateway.http.asking import (
    COMPLETIONS,
    complete,
    events,
    post,
    refusal_of,
)
from tests.deployments.gateway.http.server import openai_client

pytestmark = pytest.mark.asyncio

ENDED = "a task failed while it was ended"
TWO_OUTPUTS = [
    *text_deltas("a", "b", num_cached_tokens=3),
    *text_deltas("x", "y", index=1, num_cached_tokens=3),
]


class OneBadPrompt(FakeService):
    """Refuses the prompt "bad"; fails the prompt "die" once it runs."""

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, options: CallOptions
    ) -> FakeGeneration:
        if prompt == "bad":
            raise InvalidArgumentError("bad words", param="prompt")
        generation = await super().generate(model, prompt, sampling, options)
        if prompt == "die":
            failing = FakeService([EngineError("it died")])
            return await failing.generate(model, prompt, sampling, options)
        return generation


async def test_each_prompt_has_its_outputs_and_the_usage_is_of_all() -> None:
    service = FakeService(TWO_OUTPUTS)
    async with openai_client(service) as client:
        answer = await client.completions.create(model="tiny", prompt=["hi", "hello"], n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "ab"),
        (1, "xy"),
        (2, "ab"),
        (3, "xy"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 8)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 6
    assert [call.prompt for call in service.calls] == ["hi", "hello"]
    assert len({call.request_id for call in service.calls}) == 1


async def test_prompts_may_be_lists_of_token_ids() -> None:
    service = FakeService(text_deltas("ok"))
    response = await complete(service, prompt=[[1, 2], [3]])
    assert [choice["index"] for choice in response.json()["choices"]] == [0, 1]
    assert [call.prompt for call in service.calls] == [[1, 2], [3]]


async def test_their_streams_are_interleaved() -> None:
    service = FakeService(text_deltas("a", "b", "c"))
    response = await complete(
        service, prompt=["hi", "hello"], stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage, done = events(response)
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 6
    choices = [chunk["choices"][0] for chunk in chunks]
    for index in (0, 1):
        own = [choice for choice in choices if choice["index"] == index]
        assert [choice["text"] for choice in own] == ["a", "b", "c"]
        assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]
    # The first does not wait for the second, nor the second for the first.
    assert {choice["index"] for choice in choices[:3]} == {0, 1}
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_prompt_that_is_refused_refuses_all() -> None:
    service = OneBadPrompt(text_deltas("ok"))
    response = await complete(service, prompt=["fine", "bad"])
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "bad words"
    assert service.aborted_ids == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_fails_fails_all_and_ends_the_others(stream: bool) -> None:
    service = OneBadPrompt([asyncio.Event()])
    response = await complete(service, prompt=["fine", "die"], stream=stream)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "it died"
    assert len(service.aborted_ids) == 1


async def test_what_further_prompts_fail_with_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await complete(OneBadPrompt(), prompt=["die", "die"])
    assert response.json()["error"]["message"] == "it died"
    assert [record.message for record in caplog.records].count(ENDED) == 1
    assert "EngineError: it died" in caplog.text


class FailsToEnd(FakeGeneration):
    """Gives deltas for ever, and fails when it is left."""

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `Generation.deltas`."""
        try:
            while True:
                yield Delta(0, "a", [1])
        finally:
            raise ZeroDivisionError("in the last step")


async def test_a_prompt_that_fails_as_it_is_left_is_logged_and_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = FakeService()
    call = RecordedCall("", "hi", None, Sampling(), CallOptions())
    generations = [FailsToEnd(service, call, 1) for _ in range(2)]
    deltas = SeveralPrompts(generations, 1).deltas()
    await anext(deltas)
    async with asyncio.timeout(5):
        await deltas.aclose()
    assert [record.message for record in caplog.records] == [ENDED, ENDED]
    assert "in the last step" in caplog.text


async def test_leaving_ends_all_of_them() -> None:
    service = FakeService([Delta(0, "a", [1]), asyncio.Event()])
    options = CallOptions()
    generations = [
        await service.generate("", prompt, Sampling(), options) for prompt in ("hi", "ho", "he")
    ]
    deltas = SeveralPrompts(generations, 1).deltas()
    assert {(await anext(deltas)).index for _ in range(3)} == {0, 1, 2}
    assert len(service.open_ids) == 3
    await deltas.aclose()
    assert (len(service.aborted_ids), service.open_ids) == (3, [])


async def test_their_number_is_bounded_by_the_configuration() -> None:
    service = FakeService(text_deltas("ok"))
    body = {"prompt": ["hi"] * 3}
    response = await post(service, COMPLETIONS, body, max_prompts=2)
    assert response.status_code == 400
    param, message = await refusal_of("completions", prompt=["hi"] * 65)
    assert param == "prompt"
    assert "prompt has 65 prompts; at most 64 are allowed" in message


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [1, 2], [[1, 2]]])
async def test_one_prompt_is_no_several(prompt: Any) -> None:
    service = FakeService(text_deltas("ok"))
    answer = (await complete(service, prompt=prompt)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["ok"]
    assert len(service.calls) == 1


async def test_a_client_that_leaves_ends_all_of_them() -> None:
    service = FakeService([Delta(0, "a", [1]), asyncio.Event()])
    async with openai_client(service) as client:
        stream = await client.completions.create(
            model="tiny", prompt=["hi", "hello"], stream=True
        )
        await anext(aiter(stream))
        await stream.close()
        async with asyncio.timeout(5):
            while len(service.aborted_ids) < 2:
                await asyncio.sleep(0)
    assert service.open_ids == []

"""The unmodified `openai` package against the door on a real socket."""

import asyncio

import msgspec
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from deployments.types import ChatMessage, Delta, TokenLogprob, TokenLogprobs
from infra.errors import (
    CapacityError,
    DeadlineError,
    EngineError,
    InvalidArgumentError,
    PromptTooLongError,
    UnknownModelError,
)
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.asking import ask
from tests.deployments.gateway.http.server import openai_client, serving

pytestmark = pytest.mark.asyncio

HELLO = text_deltas("Hel", "lo", num_cached_tokens=2)
USER: ChatCompletionUserMessageParam = {"role": "user", "content": "hi"}


def with_logprobs(delta: Delta) -> Delta:
    """Each byte as a token of logprob -0.5, before "z" with -1."""
    entries = tuple(
        TokenLogprobs(
            chosen := TokenLogprob(i, -0.5, chr(i), 1),
            (chosen, TokenLogprob(ord("z"), -1.0, "z", 2)),
        )
        for i in delta.token_ids
    )
    return msgspec.structs.replace(delta, logprobs=entries)


async def test_a_chat_is_answered_whole() -> None:
    service = FakeService(HELLO)
    async with openai_client(service) as client:
        answer = await client.chat.completions.create(model="tiny", messages=[USER])
    assert answer.object == "chat.completion"
    assert answer.id == f"chatcmpl-{service.last_call.request_id}"
    assert answer.model == "tiny"
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello")
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("user: hi\n")
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == 14
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert service.last_call.messages == (ChatMessage("user", "hi"),)
    assert not service.last_call.stream


async def test_a_chat_streams_its_deltas_and_names_the_role_first() -> None:
    async with openai_client(FakeService(HELLO)) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=[USER], stream=True
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [(d.role, d.content) for d in deltas] == [("assistant", "Hel"), (None, "lo")]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"]
    assert [chunk.usage for chunk in chunks] == [None, None]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_with_the_usage_where_it_is_asked_for() -> None:
    async with openai_client(FakeService(HELLO)) as client:
        stream = await client.completions.create(
            model="tiny", prompt="hi", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 0]
    assert chunks[0].usage is None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


async def test_a_completion_is_answered_whole_and_streamed() -> None:
    service = FakeService(HELLO)
    async with openai_client(service) as client:
        whole = await client.completions.create(model="tiny", prompt="hi")
        stream = await client.completions.create(model="tiny", prompt="hi", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]
    assert whole.object == "text_completion"
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("Hello", "stop")
    assert texts == ["Hel", "lo"]
    assert [call.stream for call in service.calls] == [False, True]


async def test_the_blocking_client_works_whole_and_streamed() -> None:
    def converse(address: str) -> tuple[str | None, str]:
        with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(model="tiny", messages=[USER])
            stream = client.chat.completions.create(model="tiny", messages=[USER], stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return whole.choices[0].message.content, streamed

    async with serving(FakeService(HELLO)) as address:
        assert await asyncio.to_thread(converse, address) == ("Hello", "Hello")


async def test_several_outputs_keep_apart_by_index() -> None:
    first, second = text_deltas("a", "b"), text_deltas("x", "y", index=1)
    script = [first[0], second[0], second[1], first[1]]
    service = FakeService(script)
    async with openai_client(service) as client:
        whole = await client.chat.completions.create(model="tiny", messages=[USER], n=2)
        stream = await client.chat.completions.create(
            model="tiny", messages=[USER], n=2, stream=True
        )
        chunks = [chunk.choices[0] async for chunk in stream]
    assert [(c.index, c.message.content) for c in whole.choices] == [(0, "ab"), (1, "xy")]
    assert [(c.index, c.delta.role, c.delta.content) for c in chunks] == [
        (0, "assistant", "a"),
        (1, "assistant", "x"),
        (1, None, "y"),
        (0, None, "b"),
    ]
    assert service.last_call.sampling.n == 2


async def test_logprobs_come_in_the_chat_shape() -> None:
    service = FakeService([with_logprobs(d) for d in text_deltas("a", "b")])
    async with openai_client(service) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=[USER], logprobs=True, top_logprobs=2
        )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["a", "b"]
    first = logprobs.content[0]
    assert (first.logprob, first.bytes) == (-0.5, [97])
    assert [(t.token, t.logprob) for t in first.top_logprobs] == [("a", -0.5), ("z", -1.0)]
    assert service.last_call.sampling.logprobs == 2


async def test_logprobs_come_in_the_completions_shape_with_running_offsets() -> None:
    service = FakeService([with_logprobs(d) for d in text_deltas("ab", "c")])
    async with openai_client(service) as client:
        stream = await client.completions.create(
            model="tiny", prompt="hi", logprobs=2, stream=True
        )
        found = [chunk.choices[0].logprobs async for chunk in stream]
    assert found[0] is not None and found[1] is not None
    assert (found[0].tokens, found[0].text_offset) == (["a", "b"], [0, 1])
    assert (found[1].tokens, found[1].text_offset) == (["c"], [2])
    assert found[1].token_logprobs == [-0.5]
    assert found[1].top_logprobs == [{"c": -0.5, "z": -1.0}]


async def test_models_are_listed_and_found_even_with_a_slash_in_the_name() -> None:
    cards = [model_card(), model_card("tiny/adapter", base_model="tiny")]
    async with openai_client(FakeService(cards=cards)) as client:
        listed = await client.models.list()
        found = await client.models.retrieve("tiny/adapter")
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("huge")
    assert [model.id for model in listed.data] == ["tiny", "tiny/adapter"]
    assert (found.id, found.owned_by, found.created) == (
        "tiny/adapter",
        "coterie",
        1_700_000_000,
    )
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "expected", "code"),
    [
        (UnknownModelError("no", param="model"), openai.NotFoundError, "model_not_found"),
        (PromptTooLongError("no"), openai.BadRequestError, "context_length_exceeded"),
        (CapacityError("full"), openai.RateLimitError, "overloaded"),
        (EngineError("it died"), openai.InternalServerError, "engine_failed"),
        (ZeroDivisionError("secret"), openai.InternalServerError, "internal"),
    ],
)
async def test_a_refusal_has_its_status_whether_streamed_or_not(
    refusal: Exception, expected: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    service = FakeService(refusal=refusal)
    async with openai_client(service) as client:
        with pytest.raises(expected) as caught:
            await client.completions.create(model="tiny", prompt="hi", stream=stream)
    assert caught.value.code == code
    assert "secret" not in caught.value.message
    assert caught.value.request_id == service.last_call.request_id


@pytest.mark.parametrize(
    ("refusal", "num_calls"),
    [
        (DeadlineError("too slow"), 1),
        (ZeroDivisionError("ours"), 1),
        (InvalidArgumentError("wrong"), 1),
        (CapacityError("full", retry_after_s=0), 2),
        (EngineError("it died", retry_after_s=0), 2),
    ],
)
async def test_the_client_sends_again_only_what_may_pass_later(
    refusal: Exception, num_calls: int
) -> None:
    service = FakeService(refusal=refusal)
    async with openai_client(service) as client:
        with pytest.raises(openai.APIStatusError):
            await client.with_options(max_retries=1).completions.create(
                model="tiny", prompt="hi"
            )
    assert len(service.calls) == num_calls


async def test_a_path_that_is_not_there_is_asked_for_once() -> None:
    response = await ask(FakeService(), "GET", "/v1/nothing")
    assert (response.status_code, response.headers["x-should-retry"]) == (404, "false")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_delta_is_a_status(stream: bool) -> None:
    async with openai_client(FakeService([EngineError("it died")])) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="tiny", messages=[USER], stream=stream)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


async def test_a_failure_after_the_first_delta_ends_the_stream_with_an_error() -> None:
    received = []
    async with openai_client(FakeService([HELLO[0], EngineError("it died")])) as client:
        stream = await client.completions.create(model="tiny", prompt="hi", stream=True)
        with pytest.raises(openai.APIError, match="it died") as caught:
            async for chunk in stream:
                received.append(chunk.choices[0].text)
    assert received == ["Hel"]
    assert caught.value.code == "engine_failed"

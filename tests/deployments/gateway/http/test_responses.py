"""`/v1/responses`: the unmodified `openai` package, and what is refused."""

import asyncio
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import FunctionToolParam, Response, ResponseCompletedEvent
from pydantic import BaseModel

from deployments.types import ChatMessage, Delta, Sampling, StructuredOutput, Tool, ToolCall
from infra.errors import CapacityError, EngineError
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.server import openai_client, serving

pytestmark = pytest.mark.asyncio

HELLO = text_deltas("Hel", "lo", num_cached_tokens=2)
SCHEMA: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "parameters": SCHEMA,
    "strict": True,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
KNOWS_TOOLS = model_card(has_tool_template=True, tool_parser="hermes")


async def ask(service: FakeService, **fields: Any) -> Response:
    """The answer to such a request."""
    async with openai_client(service) as client:
        answer: Response = await client.responses.create(
            **{"model": "tiny", "input": "hi", **fields}
        )
    return answer


async def stream_of(service: FakeService, **fields: Any) -> list[Any]:
    """The events of such a request."""
    async with openai_client(service) as client:
        stream = await client.responses.create(
            **{"model": "tiny", "input": "hi", "stream": True, **fields}
        )
        return [event async for event in stream]


async def test_a_text_is_answered_whole() -> None:
    service = FakeService(HELLO)
    answer = await ask(service, instructions="Be brief.", metadata={"a": "b"}, store=True)
    assert (answer.object, answer.status, answer.model) == ("response", "completed", "tiny")
    assert answer.id == f"resp_{service.last_call.request_id}"
    assert answer.output_text == "Hello"
    [item] = answer.output
    assert item.type == "message"
    assert item.status == "completed"
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})
    assert (answer.error, answer.incomplete_details) == (None, None)
    assert answer.model_extra == {"store": False}
    assert answer.usage is not None
    assert answer.usage.output_tokens == 5
    assert answer.usage.input_tokens_details.cached_tokens == 2
    assert answer.usage.total_tokens == answer.usage.input_tokens + 5
    assert service.last_call.messages == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "hi"),
    )
    assert not service.last_call.stream


async def test_a_stream_tells_each_step_in_openai_s_order() -> None:
    events = await stream_of(FakeService(HELLO))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert [event.delta for event in events[4:6]] == ["Hel", "lo"]
    assert (events[0].response.status, events[0].response.usage) == ("in_progress", None)
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert last.response.output_text == events[6].text == "Hello"
    assert last.response.usage is not None
    assert {event.item_id for event in events[3:8]} == {last.response.output[0].id}


async def test_a_streamed_answer_is_the_whole_one() -> None:
    deltas = text_deltas(*("See. " + CALL))
    service = FakeService(deltas, cards=[KNOWS_TOOLS])
    whole = await ask(service, tools=[WEATHER])
    async with (
        openai_client(service) as client,
        client.responses.stream(model="tiny", input="hi", tools=[WEATHER]) as stream,
    ):
        streamed = await stream.get_final_response()
    assert whole.output_text == streamed.output_text == "See."
    calls = [(i.name, i.arguments) for i in whole.output if i.type == "function_call"]
    assert calls == [("weather", '{"city": "Rome"}')]
    assert calls == [
        (i.name, i.arguments) for i in streamed.output if i.type == "function_call"
    ]
    assert whole.usage == streamed.usage


async def test_the_blocking_client_works_whole_and_streamed() -> None:
    def converse(address: str) -> tuple[str, str]:
        with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            whole = client.responses.create(model="tiny", input="hi")
            stream = client.responses.create(model="tiny", input="hi", stream=True)
            texts = [e.delta for e in stream if e.type == "response.output_text.delta"]
            return whole.output_text, "".join(texts)

    async with serving(FakeService(HELLO)) as address:
        assert await asyncio.to_thread(converse, address) == ("Hello", "Hello")


async def test_a_call_is_an_item_whose_arguments_stream() -> None:
    pieces = [
        '<tool_call>{"name": "weather", "arguments": {"ci',
        'ty": "Rome"}}',
        "</tool_call>",
    ]
    service = FakeService(text_deltas(*pieces), cards=[KNOWS_TOOLS])
    events = await stream_of(service, tools=[WEATHER])
    assert [event.type.removeprefix("response.") for event in events[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.delta for event in events[3:5]] == ['{"ci', 'ty": "Rome"}']
    assert events[5].arguments == '{"city": "Rome"}'
    [call] = events[-1].response.output
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    conversation = service.last_call.conversation
    assert conversation is not None
    assert conversation.tools == (Tool("weather", None, SCHEMA),)


async def test_a_demanded_function_is_held_to_its_arguments() -> None:
    service = FakeService(text_deltas('{"city": ', '"Rome"}'))
    answer = await ask(
        service, tools=[WEATHER], tool_choice={"type": "function", "name": "weather"}
    )
    [call] = answer.output
    assert call.type == "function_call"
    assert call.arguments == '{"city": "Rome"}'
    assert service.last_call.sampling.structured_output is not None


async def test_an_answer_s_items_can_be_sent_back_with_what_the_calls_gave() -> None:
    service = FakeService(text_deltas("One moment.", CALL), cards=[KNOWS_TOOLS])
    first = await ask(service, tools=[WEATHER])
    call_id = next(i.call_id for i in first.output if i.type == "function_call")
    await ask(
        service,
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Rome?"}]},
            *first.output,
            {"type": "function_call_output", "call_id": call_id, "output": "sunny"},
        ],
        tools=[WEATHER],
    )
    call = ToolCall(call_id, "weather", '{"city": "Rome"}')
    assert service.last_call.messages == (
        ChatMessage("developer", "Be brief."),
        ChatMessage("user", "Rome?"),
        ChatMessage("assistant", "One moment.", (call,)),
        ChatMessage("tool", "sunny", (), call_id),
    )


async def test_sampling_and_the_form_of_the_text_reach_the_service() -> None:
    class City(BaseModel):
        name: str

    service = FakeService(text_deltas('{"name": "Rome"}'))
    async with openai_client(service) as client:
        answer = await client.responses.parse(
            model="tiny", input="hi", text_format=City, temperature=0.5, max_output_tokens=9
        )
    assert answer.output_parsed == City(name="Rome")
    form = service.last_call.sampling.structured_output
    assert form is not None and form.json_schema is not None and "name" in form.json_schema
    assert service.last_call.sampling == Sampling(
        temperature=0.5, max_tokens=9, structured_output=StructuredOutput(form.json_schema)
    )


async def test_an_answer_that_is_cut_off_is_incomplete() -> None:
    cut = [Delta(0, "Hel", [1, 2], finish_reason="length")]
    answer = await ask(FakeService(cut), max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert (answer.output_text, answer.output[0].type) == ("Hel", "message")
    events = await stream_of(FakeService(cut))
    assert events[-1].type == "response.incomplete"


async def test_a_demanded_list_that_is_cut_off_has_no_message_behind_its_calls() -> None:
    text = '[{"name": "weather", "parameters": {"city": "Rome"}}, {"name": "wea'
    cut = FakeService([Delta(0, text, [1], finish_reason="length")], cards=[KNOWS_TOOLS])
    answer = await ask(cut, tools=[WEATHER], tool_choice="required")
    assert answer.status == "incomplete"
    assert [item.type for item in answer.output] == ["function_call"]


async def test_an_empty_answer_is_an_empty_message() -> None:
    answer = await ask(FakeService([Delta(0, "", [2], finish_reason="stop")]))
    assert (len(answer.output), answer.output_text) == (1, "")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_delta_is_a_status(stream: bool) -> None:
    with pytest.raises(openai.RateLimitError):
        await ask(FakeService(refusal=CapacityError("full")), stream=stream)
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(FakeService([EngineError("it died")]), stream=stream)
    assert caught.value.status_code == 503


async def test_a_failure_after_the_first_delta_ends_the_stream_with_an_error() -> None:
    with pytest.raises(openai.APIError, match="it died") as caught:
        await stream_of(FakeService([HELLO[0], EngineError("it died")]))
    assert caught.value.code == "engine_failed"


async def test_a_client_that_leaves_its_stream_ends_the_generation() -> None:
    service = FakeService([HELLO[0], asyncio.Event()])
    async with openai_client(service) as client:
        stream = await client.responses.create(model="tiny", input="hi", stream=True)
        assert (await anext(aiter(stream))).type == "response.created"
        await stream.close()
        await service.wait_aborted()
    assert service.open_ids == []

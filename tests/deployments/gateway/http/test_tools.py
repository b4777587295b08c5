"""Tools on `/v1/chat/completions`: the unmodified `openai` package, and what is refused."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionToolParam, ChatCompletionUserMessageParam

from deployments.types import ChatMessage, Delta, Tool, ToolCall
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.asking import chat, events
from tests.deployments.gateway.http.server import openai_client, serving

pytestmark = pytest.mark.asyncio

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA},
}
TIME: ChatCompletionToolParam = {"type": "function", "function": {"name": "time"}}
USER: ChatCompletionUserMessageParam = {"role": "user", "content": "Weather in Rome?"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
KNOWS_TOOLS = model_card(has_tool_template=True, tool_parser="hermes")


def service(*texts: str, **card: Any) -> FakeService:
    """One that knows tools, and answers with these texts."""
    cards = [model_card(**card)] if card else [KNOWS_TOOLS]
    return FakeService(text_deltas(*texts), cards=cards)


def form_of(asked: FakeService) -> Any:
    """The JSON schema that the output is held to."""
    form = asked.last_call.sampling.structured_output
    assert form is not None and form.json_schema is not None
    return json.loads(form.json_schema)


async def stream_of(client: AsyncOpenAI, **fields: Any) -> list[Any]:
    """The only choice of each chunk."""
    stream = await client.chat.completions.create(
        model="tiny", messages=[USER], stream=True, **fields
    )
    return [chunk.choices[0] async for chunk in stream]


async def test_a_call_that_the_model_writes_is_answered_as_one() -> None:
    asked = service("Let me see.\n" + CALL)
    async with openai_client(asked) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=[USER], tools=[WEATHER, TIME]
        )
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    assert len(call.id) == 9 and call.id.isalnum()
    conversation = asked.last_call.conversation
    assert conversation is not None
    assert conversation.tools == (Tool("weather", "Tells it.", SCHEMA), Tool("time"))
    sampling = asked.last_call.sampling
    assert (sampling.structured_output, sampling.skip_special_tokens) == (None, False)


async def test_a_streamed_call_comes_as_id_and_name_and_then_arguments() -> None:
    pieces = ["<tool", '_call>{"name": "wea', 'ther", "arguments": {"ci', 'ty": "Rome"}', "}"]
    async with openai_client(service(*pieces, "</tool_call>")) as client:
        choices = await stream_of(client, tools=[WEATHER])
    assert choices[0].delta.role == "assistant"
    assert {choice.delta.content for choice in choices} == {None}
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert {call.index for call in calls} == {0}
    assert [(c.function.name, c.function.arguments) for c in calls] == [
        ("weather", '{"ci'),
        (None, 'ty": "Rome"}'),
    ]
    assert [bool(call.id) for call in calls] == [True, False]
    assert choices[-1].finish_reason == "tool_calls"


async def test_the_client_s_own_gathering_of_a_stream_gives_the_whole_calls() -> None:
    second = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
    async with (
        openai_client(service(*("See." + CALL + second))) as client,
        client.chat.completions.stream(
            model="tiny", messages=[USER], tools=[WEATHER, TIME]
        ) as stream,
    ):
        message = (await stream.get_final_completion()).choices[0].message
    assert message.content == "See."
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls or []] == [
        ("weather", '{"city": "Rome"}'),
        ("time", "{}"),
    ]


async def test_the_blocking_client_gets_calls_whole_and_streamed() -> None:
    def converse(address: str) -> tuple[str, str]:
        with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(
                model="tiny", messages=[USER], tools=[WEATHER]
            )
            stream = client.chat.completions.create(
                model="tiny", messages=[USER], tools=[WEATHER], stream=True
            )
            calls = [c for chunk in stream for c in chunk.choices[0].delta.tool_calls or []]
            [call] = whole.choices[0].message.tool_calls or []
            assert call.type == "function"
            pieces = [c.function.arguments or "" for c in calls if c.function]
            return call.function.arguments, "".join(pieces)

    async with serving(service(*CALL)) as address:
        whole, streamed = await asyncio.to_thread(converse, address)
    assert whole == streamed == '{"city": "Rome"}'


async def test_a_demanded_call_is_held_to_a_list_of_the_tools_schemas() -> None:
    text = '[{"name": "weather", "parameters": {"city": "Rome"}}]'
    asked = service(text)
    async with openai_client(asked) as client:
        answer = await client.chat.completions.create(
            model="tiny",
            messages=[USER],
            tools=[WEATHER, TIME],
            tool_choice="required",
            parallel_tool_calls=False,
        )
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    schema = form_of(asked)
    assert (schema["type"], schema["minItems"], schema["maxItems"]) == ("array", 1, 1)
    [weather, time] = schema["items"]["anyOf"]
    assert weather["properties"] == {
        "name": {"type": "string", "enum": ["weather"]},
        "parameters": SCHEMA,
    }
    assert time["properties"]["parameters"] == {"type": "object", "properties": {}}


async def test_a_named_function_is_held_to_its_arguments_and_streamed() -> None:
    asked = service('{"city"', ': "Rome"}')
    async with openai_client(asked) as client:
        choices = await stream_of(
            client,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert [(c.function.name, c.function.arguments) for c in calls] == [
        ("weather", '{"city"'),
        (None, ': "Rome"}'),
    ]
    assert choices[-1].finish_reason == "tool_calls"
    assert form_of(asked) == SCHEMA


async def test_definitions_in_schemas_move_to_the_top() -> None:
    point = {"$defs": {"P": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/P"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": point}}
    asked = service("[]")
    response = await chat(asked, tools=[tool, TIME], tool_choice="required")
    assert response.status_code == 200
    assert form_of(asked)["$defs"] == {"P": {"type": "integer"}}


async def test_with_choice_none_the_model_hears_of_no_tools() -> None:
    asked = service(CALL)
    response = await chat(asked, tools=[WEATHER], tool_choice="none")
    [choice] = response.json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", CALL)
    conversation = asked.last_call.conversation
    assert conversation is not None and conversation.tools == ()


async def test_a_call_that_is_cut_off_keeps_the_finish_reason_length() -> None:
    delta = Delta(0, CALL[:50], [1], finish_reason="length")
    asked = FakeService([delta], cards=[KNOWS_TOOLS])
    [choice] = (await chat(asked, tools=[WEATHER])).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"cit'


async def test_a_demanded_list_that_is_cut_off_leaves_no_text_behind() -> None:
    text = '[{"name": "weather", "parameters": {"city": "Rome"}}, {"name": "wea'
    asked = FakeService([Delta(0, text, [1], finish_reason="length")], cards=[KNOWS_TOOLS])
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
    [choice] = (await chat(asked, **fields)).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    chunks = events(await chat(asked, **fields, stream=True))[:-1]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert [delta.get("content") for delta in deltas] == [None]


async def test_several_outputs_have_calls_of_their_own() -> None:
    deltas = [*text_deltas(*CALL), *text_deltas("No ", "call.", index=1)]
    asked = FakeService(deltas, cards=[KNOWS_TOOLS])
    whole = (await chat(asked, tools=[WEATHER], n=2)).json()["choices"]
    assert [choice["finish_reason"] for choice in whole] == ["tool_calls", "stop"]
    assert [choice["message"]["content"] for choice in whole] == [None, "No call."]
    chunks = events(await chat(asked, tools=[WEATHER], n=2, stream=True))[:-1]
    ends = {c["index"]: c["finish_reason"] for e in chunks for c in e["choices"]}
    assert ends == {0: "tool_calls", 1: "stop"}


async def test_a_turn_of_calls_and_their_results_travel_to_the_template() -> None:
    asked = service("It is sunny.")
    async with openai_client(asked) as client:
        await client.chat.completions.create(
            model="tiny",
            messages=[
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "abc",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "abc", "content": "sunny"},
            ],
            tools=[WEATHER],
        )
    assert asked.last_call.messages == (
        ChatMessage("user", "Weather in Rome?"),
        ChatMessage("assistant", "", (ToolCall("abc", "weather", '{"city": "Rome"}'),)),
        ChatMessage("tool", "sunny", (), "abc"),
    )


async def test_a_demand_works_without_tools_in_the_template() -> None:
    asked = service('{"city": "Rome"}', has_tool_template=False)
    choice = {"type": "function", "function": {"name": "weather"}}
    response = await chat(asked, tools=[WEATHER], tool_choice=choice)
    [call] = response.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    conversation = asked.last_call.conversation
    assert conversation is not None and conversation.tools == ()

"""OpenAI's paths on real parts: tools, several prompts and responses, by its own package."""

import asyncio
import json
from typing import Any

import pytest

from tests.cluster.guarded.conftest import MODEL, Place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PROMPTS = ["The history of bread", "Once upon a time,", "1, 2,", "def fibonacci(n):"]
QUESTION: Any = {"role": "user", "content": "What will the weather in Rome be for 3 days?"}

WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Paris", "Rome"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
TOOLS: Any = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "time"}},
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
ASKING: Any = {
    "model": MODEL,
    "messages": [QUESTION],
    "tools": TOOLS,
    "parallel_tool_calls": False,
    "temperature": 0,
    "max_tokens": 64,
}


def check_call(name: str, arguments: str) -> None:
    """The call names a tool, and its arguments obey that tool's schema."""
    given = json.loads(arguments)
    assert name in {"weather", "time"}
    if name == "weather":
        assert given.keys() == {"city", "days"}
        assert given["city"] in {"Paris", "Rome"}
        assert 1 <= given["days"] <= 9


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_demanded_tools_are_called_whole_and_streamed_by_both_openai_clients(
    place: Place, choice: Any
) -> None:
    def ask() -> list[tuple[str, str]]:
        with place.openai("first") as client:
            answer = client.chat.completions.create(**ASKING, tool_choice=choice)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None
        calls = answer.choices[0].message.tool_calls or []
        return [(call.function.name, call.function.arguments) for call in calls]

    [(name, arguments)] = await asyncio.to_thread(ask)
    check_call(name, arguments)
    assert choice == "required" or name == "weather"
    async with place.async_openai("first") as client:
        stream = await client.chat.completions.create(**ASKING, tool_choice=choice, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    pieces = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert (pieces[0].function.name, chunks[-1].finish_reason) == (name, "tool_calls")
    assert [bool(piece.id) for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert len(pieces) > 1
    assert "".join(piece.function.arguments for piece in pieces) == arguments


def test_a_model_whose_template_knows_tools_is_shown_them_and_may_choose(
    place: Place,
) -> None:
    with place.openai("first") as client:
        chosen = client.chat.completions.create(**ASKING)
        without = client.chat.completions.create(**(ASKING | {"tool_choice": "none"}))
    assert chosen.usage is not None and without.usage is not None
    assert chosen.usage.prompt_tokens > without.usage.prompt_tokens + 50
    message = chosen.choices[0].message
    assert message.content or message.tool_calls
    assert without.choices[0].message.tool_calls is None


def test_what_a_call_gave_reaches_the_model(place: Place) -> None:
    call = {"id": "abc", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    turns: Any = [
        {"role": "user", "content": "What is the secret word? Ask the tool."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc", "content": "The secret word is marmalade."},
    ]
    with place.openai("first") as client:
        answer = client.chat.completions.create(**(ASKING | {"messages": turns}))
    assert "marmalade" in str(answer.choices[0].message.content)


async def test_several_prompts_are_answered_as_each_alone(place: Place) -> None:
    async with place.async_openai("first") as client:

        async def texts(prompt: Any, **more: Any) -> list[str]:
            answer = await client.completions.create(
                model=MODEL, prompt=prompt, temperature=0, max_tokens=8, **more
            )
            if not more:
                return [choice.text for choice in answer.choices]
            found = [""] * len(prompt)
            async for chunk in answer:
                for choice in chunk.choices:
                    found[choice.index] += choice.text
            return found

        alone = [(await texts(prompt))[0] for prompt in PROMPTS]
        assert await texts(PROMPTS) == alone
        assert await texts(PROMPTS, stream=True) == alone


def test_responses_are_those_of_chat_whole_and_streamed(place: Place) -> None:
    question = "Name three colours of the rainbow."
    asking: Any = {"model": MODEL, "input": question, "temperature": 0}
    demand: Any = {
        "tools": [{"type": "function", **WEATHER}],
        "tool_choice": {"type": "function", "name": "weather"},
    }
    with place.openai("first") as client:
        chat = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=24,
        )
        whole = client.responses.create(**asking, max_output_tokens=24)
        events = list(client.responses.create(**asking, max_output_tokens=24, stream=True))
        call = client.responses.create(
            **asking,
            **demand,
        )
    assert whole.output_text == chat.choices[0].message.content
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert events[-1].response.usage == whole.usage
    assert [item.type for item in call.output] == ["function_call"]
    check_call("weather", call.output[0].arguments)

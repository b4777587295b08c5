"""Counts and sizes of every field are bounded."""

import json
from typing import Any

import pytest

from deployments.gateway.checks import MAX_SCHEMA_DEPTH, MAX_TEXT_CHARS
from deployments.gateway.conversation_checks import (
    MAX_MESSAGES,
    MAX_TOOL_CALLS,
    MAX_TOOLS,
    MAX_TOOLS_CHARS,
)
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.asking import CHAT, COMPLETIONS, ask, post

pytestmark = pytest.mark.asyncio

RESPONSES = "/v1/responses"
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
}
KNOWS_TOOLS = model_card(has_tool_template=True, tool_parser="hermes")


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    """One of a chat's tools."""
    return {"type": "function", "function": {"name": name, **fields}}


def user(content: str, role: str = "user") -> dict[str, str]:
    """A turn."""
    return {"role": role, "content": content}


def calls(num_calls: int, call_id: str = "x") -> dict[str, Any]:
    """A turn of the model with so many calls."""
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {"role": "assistant", "tool_calls": [call] * num_calls}


TOO_MANY_TOOLS = [function(f"f{i}") for i in range(MAX_TOOLS + 1)]
LONG_TEXT = "x" * (MAX_TEXT_CHARS // 2 + 1)
BIG_SCHEMA = {"type": "object", "description": "x" * MAX_TOOLS_CHARS}


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        (
            CHAT,
            {"messages": [user("x")] * (MAX_MESSAGES + 1)},
            "messages",
            "over 4096",
        ),
        (CHAT, {"messages": [user(LONG_TEXT)] * 2}, "messages", "characters"),
        (CHAT, {"messages": [user("x", "r" * 65)]}, "messages", "role of over 64"),
        (CHAT, {"messages": [user("x", "")]}, "messages", "no role"),
        (
            CHAT,
            {"messages": [calls(MAX_TOOL_CALLS + 1)]},
            "messages",
            "over 128 tool",
        ),
        (CHAT, {"messages": [calls(1, "x" * 257)]}, "messages", "id of over 256"),
        (CHAT, {"tools": TOO_MANY_TOOLS}, "tools", "over 128 entries"),
        (CHAT, {"tools": [function(parameters=BIG_SCHEMA)]}, "tools", "bytes as JSON"),
        (CHAT, {"tools": [function(description="x" * 300_000)]}, "tools", "bytes as JSON"),
        (CHAT, {"tools": [function("n" * 65)]}, "tools", "1 to 64 letters"),
        (CHAT, {"tools": [function("a b")]}, "tools", "1 to 64 letters"),
        (COMPLETIONS, {"prompt": [LONG_TEXT, LONG_TEXT]}, "prompt", "characters"),
        (RESPONSES, {"input": LONG_TEXT * 2}, "input", "characters"),
        (
            RESPONSES,
            {"input": [user("x")] * (MAX_MESSAGES + 1)},
            "input",
            "over 4096",
        ),
        (
            RESPONSES,
            {"tools": [{"type": "function", "name": "f", "parameters": BIG_SCHEMA}]},
            "tools",
            "bytes as JSON",
        ),
        (RESPONSES, {"metadata": {str(i): "x" for i in range(17)}}, "metadata", "16"),
        (RESPONSES, {"metadata": {"a": "x" * 513}}, "metadata", "512"),
        (RESPONSES, {"metadata": {"x" * 65: "a"}}, "metadata", "64"),
    ],
)
async def test_what_is_too_many_or_too_long_is_refused_before_it_is_submitted(
    path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    service = FakeService(text_deltas("ok"), cards=[KNOWS_TOOLS])
    response = await post(service, path, {**LEAST[path], **fields})
    assert (response.status_code, service.calls) == (400, [])
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_argument", param)
    assert words in error["message"]
    assert len(response.content) < 2000


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (RESPONSES, "input")])
async def test_the_number_of_turns_is_told_before_any_of_them_is_read(
    path: str, param: str
) -> None:
    turns = [{"role": "tool", "content": None}] * (MAX_MESSAGES + 1)
    response = await post(FakeService(), path, {param: turns})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert error["message"] == f"{param} has over {MAX_MESSAGES} entries"


def deep_body(fields: dict[str, Any], depth: int) -> bytes:
    """The fields with a schema of so many levels in place of "SCHEMA"."""
    schema = '{"not": ' * (depth - 1) + "{}" + "}" * (depth - 1)
    return json.dumps(fields).replace('"SCHEMA"', schema).encode()


JSON_SCHEMA = {"type": "json_schema", "json_schema": {"schema": "SCHEMA"}}


@pytest.mark.parametrize(
    ("path", "param", "fields"),
    [
        (CHAT, "tools", {"tools": [function(parameters="SCHEMA")]}),
        (CHAT, "response_format", {"response_format": JSON_SCHEMA}),
        (
            RESPONSES,
            "tools",
            {"tools": [{"type": "function", "name": "f", "parameters": "SCHEMA"}]},
        ),
        (
            RESPONSES,
            "text.format",
            {"text": {"format": {"type": "json_schema", "schema": "SCHEMA"}}},
        ),
        (COMPLETIONS, "guided_json", {"guided_json": "SCHEMA"}),
    ],
)
async def test_a_schema_is_refused_for_its_depth_before_it_is_submitted(
    path: str, param: str, fields: dict[str, Any]
) -> None:
    for depth in (MAX_SCHEMA_DEPTH, MAX_SCHEMA_DEPTH + 1, *range(960, 1000)):
        service = FakeService(text_deltas("ok"), cards=[KNOWS_TOOLS])
        body = deep_body({**LEAST[path], **fields}, depth)
        response = await ask(service, "POST", path, content=body)
        if depth <= MAX_SCHEMA_DEPTH:
            assert (response.status_code, len(service.calls)) == (200, 1)
            continue
        assert (response.status_code, service.calls) == (400, [])
        error = response.json()["error"]
        assert "nested too deeply" in error["message"]
        # Near Python's own limit it is the body as a whole that is refused.
        assert error["param"] == param or (depth > 900 and error["param"] is None)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_deeply_nested_schema_is_refused_or_taken_but_never_fails(path: str) -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"type": "object", "properties": {"x": schema}}
    tool = function(parameters=schema)
    tools = [tool if path == CHAT else {"type": "function", **tool["function"]}]
    service = FakeService(text_deltas("ok"), cards=[KNOWS_TOOLS])
    fields = {"tools": tools, "tool_choice": "required"}
    assert (await post(service, path, {**LEAST[path], **fields})).status_code == 200
    deep = json.dumps({**LEAST[path], **fields}).replace('"x": {}', '"x": ' + '{"x": ' * 5000)
    response = await ask(service, "POST", path, content=deep.encode())
    assert (response.status_code, "nested too deeply" in response.text) == (400, True)

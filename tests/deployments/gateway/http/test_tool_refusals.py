"""Tools on `/v1/chat/completions`: what is refused."""

from typing import Any

import pytest

from tests.builders.fake_service import FakeService
from tests.deployments.gateway.http.asking import chat
from tests.deployments.gateway.http.test_tools import WEATHER, service

pytestmark = pytest.mark.asyncio


async def refusal(asked: FakeService, **fields: Any) -> tuple[str, str, str]:
    """Code, field and message of the 400 that such a request gets."""
    response = await chat(asked, **fields)
    assert response.status_code == 400, response.text
    assert asked.calls == []
    error = response.json()["error"]
    return error["code"], error["param"], error["message"]


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"has_tool_template": False}, "the model's chat template has no tools"),
        ({"has_tool_template": True}, "have the operator set tool_parser"),
    ],
)
async def test_a_model_that_cannot_choose_is_not_left_to_choose(
    card: dict[str, Any], words: str
) -> None:
    code, param, message = await refusal(service("x", **card), tools=[WEATHER])
    assert (code, param) == ("unknown_method", "tools")
    assert words in message


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tool_choice": "required"}, "tools", "there are no tools"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "no"}},
            },
            "tool_choice",
            "not among the tools",
        ),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice", "maybe"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "custom"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "same name"),
        (
            {"tools": [WEATHER], "response_format": {"type": "json_object"}},
            "response_format",
            "keep the model from calling tools",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "x"}]},
            "messages[0].tool_call_id",
            "role tool",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "role"),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            "messages[0].content",
            "missing",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    fields: dict[str, Any], param: str, words: str
) -> None:
    code, refused, message = await refusal(service("x"), **fields)
    assert (code, refused) == ("invalid_argument", param)
    assert words in message

"""Objects of the unmodified `openai` package, sent back with all their fields."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion_message import FunctionCall
from openai.types.responses import Response
from openai.types.shared import Reasoning

from deployments.types import ChatMessage, Tool, ToolCall
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.asking import chat, post
from tests.deployments.gateway.http.server import openai_client

pytestmark = pytest.mark.asyncio

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "default": None}}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": null}}</tool_call>'


def service() -> FakeService:
    """Answers with text and a call."""
    card = model_card(has_tool_template=True, tool_parser="hermes")
    return FakeService(text_deltas("See.", CALL), cards=[card])


async def response_of(asked: FakeService, tool: Any) -> Response:
    """An answer with a message and a call."""
    async with openai_client(asked) as client:
        return await client.responses.create(model="tiny", input="hi", tools=[tool])


async def test_the_items_of_a_response_can_be_sent_back_as_they_are_dumped() -> None:
    asked = service()
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": None}
    first = await response_of(asked, tool)
    dumped = first.model_dump()
    items = [{"role": "user", "content": "hi"}, *dumped["output"]]
    assert "phase" in items[1] and "namespace" in items[2], "the package has fields of its own"
    body = {"input": items, "tools": dumped["tools"], "text": dumped["text"]}
    response = await post(asked, "/v1/responses", body)
    assert response.status_code == 200, response.text
    call = ToolCall(items[2]["call_id"], "weather", '{"city": null}')
    assert asked.last_call.messages == (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "See.", (call,)),
    )
    conversation = asked.last_call.conversation
    assert conversation is not None
    assert conversation.tools == (Tool("weather", None, SCHEMA),)


async def test_a_chat_s_message_can_be_sent_back_with_nulls_of_any_name() -> None:
    message = ChatCompletionMessage(role="assistant", content="ok", function_call=None)
    asked = service()
    response = await chat(asked, messages=[{**message.model_dump(), "reasoning": None}])
    assert response.status_code == 200, response.text
    assert asked.last_call.messages == (ChatMessage("assistant", "ok"),)


async def test_what_is_no_null_is_refused_by_name_all_the_same() -> None:
    call = FunctionCall(name="f", arguments="{}")
    message = ChatCompletionMessage(role="assistant", content="ok", function_call=call)
    for fields in (message.model_dump(), {"role": "user", "content": "a", "mood": "good"}):
        response = await chat(service(), messages=[{**fields, "reasoning": None}])
        assert response.status_code == 400
        assert response.json()["error"]["param"] in (
            "messages[0].function_call",
            "messages[0].mood",
        )


async def test_a_mapping_of_nulls_asks_for_nothing() -> None:
    reasoning = Reasoning().model_dump()
    assert set(reasoning.values()) == {None}
    body = {"input": "hi", "reasoning": reasoning}
    assert (await post(service(), "/v1/responses", body)).status_code == 200
    response = await post(service(), "/v1/responses", {**body, "reasoning": {"effort": "low"}})
    assert response.json()["error"]["param"] == "reasoning"

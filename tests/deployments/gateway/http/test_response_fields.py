"""`/v1/responses`: fields that are refused, and those that ask for nothing."""

from typing import Any

import pytest

from deployments.types import Sampling
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.asking import post

pytestmark = pytest.mark.asyncio

HELLO = text_deltas("Hel", "lo")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored"),
        ({"conversation": "c"}, "conversation", "nothing is stored"),
        ({"background": True}, "background", "while the client waits"),
        ({"truncation": "auto"}, "truncation", "never cut"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "reasoning"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "nothing further"),
        ({"top_logprobs": 3}, "top_logprobs", "chat completions"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing"),
        ({"input": [{"content": "x"}]}, "input[0].role", "missing"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].call_id", "missing"),
        ({"input": [{"type": "reasoning"}]}, "input[0].type", "reasoning"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
            "no images",
        ),
        ({"input": []}, "input", "input is empty"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    fields: dict[str, Any], param: str, words: str
) -> None:
    service = FakeService(HELLO)
    response = await post(service, "/v1/responses", {"input": "hi", **fields})
    assert (response.status_code, service.calls) == (400, [])
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


async def test_fields_that_ask_for_nothing_pass() -> None:
    neutral = {
        "background": False,
        "include": [],
        "previous_response_id": None,
        "reasoning": None,
        "service_tier": "auto",
        "store": False,
        "stream_options": {"include_obfuscation": False},
        "top_logprobs": 0,
        "truncation": "disabled",
        "user": "u",
    }
    service = FakeService(HELLO)
    response = await post(service, "/v1/responses", {"input": "hi", **neutral})
    assert response.status_code == 200, response.text
    assert service.last_call.sampling == Sampling()

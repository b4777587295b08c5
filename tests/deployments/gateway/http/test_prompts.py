"""What a prompt and a message may be."""

from typing import Any

import pytest

from deployments.types import ChatMessage
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.asking import chat, complete, refusal_of

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", "hi"),
        ([1, 2, 3], [1, 2, 3]),
        (["hi"], "hi"),
        ([[1, 2]], [1, 2]),
        ([], []),
    ],
)
async def test_a_prompt_is_text_or_token_ids_or_stands_alone_in_a_list(
    prompt: Any, expected: Any
) -> None:
    service = FakeService(text_deltas("ok"))
    await complete(service, prompt=prompt)
    assert service.last_call.prompt == expected


@pytest.mark.parametrize("prompt", [[1, "a"], [[1], 2], [[1, "a"]], [["a"]], None, 7])
async def test_token_ids_among_prompts_or_no_prompt_are_refused(prompt: Any) -> None:
    param, _ = await refusal_of("completions", prompt=prompt)
    assert param.startswith("prompt")


async def test_content_may_be_a_list_of_text_parts() -> None:
    service = FakeService(text_deltas("ok"))
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await chat(service, messages=[{"role": "user", "content": parts}])
    assert service.last_call.messages == (ChatMessage("user", "a\nb"),)


async def test_an_image_is_refused_in_words() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
    param, message = await refusal_of("chat", messages=messages)
    assert param == "messages[0].content[1].type"
    assert "no images" in message


async def test_an_answer_can_be_sent_back_as_it_came() -> None:
    service = FakeService(text_deltas("ok"))
    answer = (await chat(service)).json()["choices"][0]["message"]
    empty: dict[str, Any] = {
        "tool_calls": None,
        "function_call": None,
        "audio": None,
        "annotations": [],
    }
    response = await chat(service, messages=[{**answer, **empty}])
    assert response.status_code == 200
    assert service.last_call.messages == (ChatMessage("assistant", "ok"),)


async def test_a_message_may_name_who_speaks() -> None:
    service = FakeService(text_deltas("ok"))
    messages = [{"role": "user", "content": "hi", "name": "bob"}]
    assert (await chat(service, messages=messages)).status_code == 200
    assert service.last_call.messages == (ChatMessage("user", "hi", name="bob"),)


async def test_a_name_of_over_64_characters_is_refused() -> None:
    message = {"role": "user", "content": "hi", "name": "b" * 65}
    param, words = await refusal_of("chat", messages=[message])
    assert (param, "name of over 64" in words) == ("messages", True)


@pytest.mark.parametrize(("name", "value"), [("function_call", {}), ("audio", {"id": "x"})])
async def test_a_message_with_more_than_text_and_tool_calls_is_refused(
    name: str, value: Any
) -> None:
    message = {"role": "assistant", "content": "a", name: value}
    param, words = await refusal_of("chat", messages=[message])
    assert param == f"messages[0].{name}"
    assert "not supported" in words


async def test_a_message_can_be_continued() -> None:
    service = FakeService(text_deltas("ok"))
    await chat(service, continue_final_message=True, add_generation_prompt=False)
    await chat(service, add_generation_prompt=True)
    conversations = [call.conversation for call in service.calls]
    assert [c and c.continue_final_message for c in conversations] == [True, False]
    param, _ = await refusal_of("chat", add_generation_prompt=False)
    assert param == "add_generation_prompt"

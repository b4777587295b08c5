"""Chat templates and the tools they tell of, with a real tokenizer of one token a word."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.gateway.openai.chat_turns import read_template, to_turns
from deployments.gateway.tokenizer import Tokenizer
from deployments.types import ChatMessage, Conversation, Tool, ToolCall
from infra.errors import ConfigError, InvalidArgumentError, UnknownMethodError

EXAMPLE = Path("deployments/examples/chatml-hermes-tools.jinja")
PLAIN = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
WEATHER = Tool("weather", "Tells it.", {"type": "object"})
CALL = ToolCall("abc", "weather", '{"city": "Rome"}')


class RecordingTokenizer:
    """Stands for a Hugging Face tokenizer; renders templates as transformers does."""

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template
        self.rendered = ""

    def __len__(self) -> int:
        return 100

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        from transformers.utils.chat_template_utils import (  # noqa: PLC0415
            render_jinja_template,
        )

        del options["tokenize"]
        texts, _ = render_jinja_template([turns], chat_template=self.chat_template, **options)
        self.rendered = texts[0]
        return self.rendered

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return list(range(len(text.split())))


def example() -> str:
    return (Path(__file__).parents[3] / EXAMPLE).read_text()


async def rendered(template: str, conversation: Conversation) -> str:
    """The prompt that the template makes of it."""
    hf_tokenizer = RecordingTokenizer(template)
    await Tokenizer(hf_tokenizer).encode_chat(conversation)
    return hf_tokenizer.rendered


@pytest.mark.parametrize(
    ("template", "is_told"),
    [
        (None, False),
        (PLAIN, False),
        (PLAIN + "{# tools #}", False),
        (PLAIN + "{{ tools | tojson if tools }}", True),
        ("{{ raise_exception('no') }}", False),
    ],
)
def test_a_template_knows_tools_if_it_shows_one(template: str | None, is_told: bool) -> None:
    assert Tokenizer(RecordingTokenizer(template)).has_tool_template is is_told


async def test_tools_for_a_template_without_them_are_refused() -> None:
    conversation = Conversation((ChatMessage("user", "hi"),), (WEATHER,))
    with pytest.raises(UnknownMethodError, match="chat template has no tools") as refused:
        await rendered(PLAIN, conversation)
    assert refused.value.param == "tools"


async def test_the_example_shows_tools_calls_and_what_they_gave() -> None:
    conversation = Conversation(
        (
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "Rome?"),
            ChatMessage("assistant", "", (CALL,)),
            ChatMessage("tool", "sunny", (), "abc"),
        ),
        (WEATHER,),
    )
    prompt = await rendered(example(), conversation)
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nYou may call")
    tool = {"name": "weather", "parameters": {"type": "object"}, "description": "Tells it."}
    assert json.dumps({"type": "function", "function": tool}) in prompt
    assert prompt.endswith(
        "<|im_start|>user\nRome?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", '
        '"arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_without_tools_the_example_is_plain_chatml() -> None:
    prompt = await rendered(example(), Conversation((ChatMessage("user", "hi"),)))
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("arguments", ["[1]", "{", "7"])
def test_arguments_of_a_call_must_be_an_object(arguments: str) -> None:
    call = ToolCall("abc", "f", arguments)
    with pytest.raises(InvalidArgumentError, match="no JSON object"):
        to_turns([ChatMessage("assistant", "", (call,))])


def test_a_call_without_arguments_has_none() -> None:
    [turn] = to_turns([ChatMessage("assistant", "", (ToolCall("abc", "f", ""),))])
    assert turn["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_a_template_file_that_cannot_be_read_is_the_operator_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chat_template_file"):
        read_template(tmp_path / "missing.jinja")


async def test_a_developer_s_message_reaches_the_template_as_the_system_s() -> None:
    conversation = Conversation((ChatMessage("developer", "short"), ChatMessage("user", "hi")))
    assert await rendered(PLAIN, conversation) == "system short user hi "


def test_a_template_may_print_who_speaks() -> None:
    named, plain = to_turns([ChatMessage("user", "hi", name="bob"), ChatMessage("user", "hi")])
    assert named == {"role": "user", "content": "hi", "name": "bob"}
    assert plain == {"role": "user", "content": "hi"}

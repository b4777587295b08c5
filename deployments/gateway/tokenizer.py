"""Text to token ids and back, with the model's own tokenizer and chat template."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from deployments.gateway.openai.chat_turns import read_template, to_tools, to_turns
from deployments.types import ChatMessage, Conversation, Tool
from infra.errors import InvalidArgumentError, UnknownMethodError
from infra.telemetry.tracing import child_span

T = TypeVar("T")

# Characters or token ids, about 2 ms of work; more leaves the event loop to the streams.
_INLINE_SIZE = 4096
# What a call of the Hugging Face tokenizer takes at least, in characters.
_CALL_SIZE = 256
_NUM_THREADS = 4
_PROBE = Conversation(
    (ChatMessage("user", "hi"),), (Tool("probe_of_tools", parameters={"type": "object"}),)
)


class Tokenizer:
    """Wraps a Hugging Face tokenizer.

    Long work is done in a few threads of its own, so that a flood of it neither takes
    those of other work nor all cores. What still waits for one ends when it is cancelled.
    """

    def __init__(self, hf_tokenizer: Any) -> None:
        self._hf = hf_tokenizer
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "tokenizer")
        self.vocab_size: int = len(hf_tokenizer)
        self.has_tool_template = self.has_chat_template and self._shows_tools()
        """The chat template tells the model of tools."""

    @classmethod
    def load(cls, path: str, chat_template_file: Path | None = None) -> "Tokenizer":
        """From a local directory or a hub id; code from the hub is never run.

        A file takes the place of the model's own chat template. Raises ConfigError
        where it cannot be read.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import)

        hf_tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if chat_template_file is not None:
            hf_tokenizer.chat_template = read_template(chat_template_file)
        return cls(hf_tokenizer)

    @property
    def has_chat_template(self) -> bool:
        """The model knows conversations."""
        return bool(self._hf.chat_template)

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds."""
        [token_ids] = await self.encode_all([text], add_special_tokens=add_special_tokens)
        return token_ids

    async def encode_all(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Token ids of each text, as of `encode`; all of it is one piece of work."""
        with child_span("tokenize"):
            return await self._off_loop(
                sum(max(len(text), _CALL_SIZE) for text in texts),
                lambda: [
                    self._hf.encode(text, add_special_tokens=add_special_tokens)
                    for text in texts
                ],
            )

    async def encode_chat(self, conversation: Conversation) -> list[int]:
        """Token ids of the conversation, ready for the answer.

        Raises UnknownMethodError for a model without chat template, or with one
        that has no tools where there are some, and InvalidArgumentError for what
        the template refuses, such as two messages of the same role in a row.
        """
        if not self.has_chat_template:
            raise UnknownMethodError("this model has no chat template; use Generate instead")
        if conversation.tools and not self.has_tool_template:
            raise UnknownMethodError("the model's chat template has no tools", param="tools")
        with child_span("tokenize"):
            return await self._off_loop(
                _size_of(conversation), lambda: self._encode_chat(conversation)
            )

    async def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of the ids, each of which must be below `vocab_size`."""
        return await self._off_loop(
            len(token_ids),
            lambda: self._hf.decode(list(token_ids), skip_special_tokens=skip_special_tokens),
        )

    def _shows_tools(self) -> bool:
        try:
            return _PROBE.tools[0].name in self._rendered(_PROBE)
        except InvalidArgumentError:
            return False

    def _encode_chat(self, conversation: Conversation) -> list[int]:
        # The template writes the special tokens itself.
        text = self._rendered(conversation)
        token_ids: list[int] = self._hf.encode(text, add_special_tokens=False)
        return token_ids

    def _rendered(self, conversation: Conversation) -> str:
        turns = to_turns(conversation.messages)
        continues = conversation.continue_final_message
        # The template is part of the model, so what it raises (jinja2's
        # TemplateError, or what its own code trips over) is about the messages.
        try:
            text: str = self._hf.apply_chat_template(
                turns,
                tools=to_tools(conversation.tools),
                tokenize=False,
                add_generation_prompt=not continues,
                continue_final_message=continues,
            )
        except Exception as error:
            raise InvalidArgumentError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return text

    async def _off_loop(self, size: int, work: Callable[[], T]) -> T:
        if size > _INLINE_SIZE:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        found = work()
        # Many small pieces in a row would hold up the loop as well.
        await asyncio.sleep(0)
        return found


def _size_of(conversation: Conversation) -> int:
    """Characters, about; with tools, whose schemas may have any size, always over the limit."""
    if conversation.tools:
        return _INLINE_SIZE + 1
    messages = conversation.messages
    calls = [call for message in messages for call in message.tool_calls]
    return sum(len(m.content) for m in messages) + sum(len(c.arguments) for c in calls)

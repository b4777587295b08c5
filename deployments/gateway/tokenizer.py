"""Text to token ids and back, with the model's own tokenizer and chat template."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from deployments.types import ChatMessage
from infra.errors import InvalidArgumentError, UnknownMethodError

# About 2 ms of tokenizing; longer texts leave the event loop to the streams.
_INLINE_CHARS = 4096


class Tokenizer:
    """Wraps a Hugging Face tokenizer; holds no state of its own."""

    def __init__(self, hf_tokenizer: Any) -> None:
        self._hf = hf_tokenizer
        self.vocab_size: int = len(hf_tokenizer)

    @classmethod
    def load(cls, path: str) -> "Tokenizer":
        """From a local directory or a hub id; code from the hub is never run."""
        from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import)

        return cls(AutoTokenizer.from_pretrained(path, trust_remote_code=False))

    @property
    def has_chat_template(self) -> bool:
        """The model knows conversations."""
        return bool(self._hf.chat_template)

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds."""
        return await self._off_loop(
            len(text), lambda: self._hf.encode(text, add_special_tokens=add_special_tokens)
        )

    async def encode_chat(
        self, messages: Sequence[ChatMessage], *, continue_final_message: bool = False
    ) -> list[int]:
        """Token ids of the conversation, ready for the answer.

        Raises UnknownMethodError for a model without chat template, and
        InvalidArgumentError for what the template refuses, such as two
        messages of the same role in a row.
        """
        if not self.has_chat_template:
            raise UnknownMethodError("this model has no chat template; use Generate instead")
        turns = [{"role": m.role, "content": m.content} for m in messages]
        size = sum(len(m.content) for m in messages)
        return await self._off_loop(size, lambda: self._render(turns, continue_final_message))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of the ids, each of which must be below `vocab_size`."""
        text: str = self._hf.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def _render(self, turns: list[dict[str, str]], continue_final: bool) -> list[int]:
        # The template is part of the model, so what it raises (jinja2's
        # TemplateError, or what its own code trips over) is about the messages.
        try:
            text: str = self._hf.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=not continue_final,
                continue_final_message=continue_final,
            )
        except Exception as error:
            raise InvalidArgumentError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        # The template writes the special tokens itself.
        token_ids: list[int] = self._hf.encode(text, add_special_tokens=False)
        return token_ids

    async def _off_loop(self, size: int, work: Callable[[], list[int]]) -> list[int]:
        if size <= _INLINE_CHARS:
            return work()
        return await asyncio.to_thread(work)

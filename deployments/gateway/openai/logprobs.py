"""Logarithms of probabilities in the two shapes that OpenAI gives them.

Chat lists tokens with their alternatives; completions has parallel lists. A
token that is no text by itself (a part of a character) has the text U+FFFD.
"""

from collections.abc import Sequence

import msgspec

from deployments.types import TokenLogprob, TokenLogprobs

# OpenAI's value for "very unlikely"; JSON has no infinity.
LEAST_LOGPROB = -9999.0


class ChatTopLogprob(msgspec.Struct, frozen=True):
    """One token; `bytes` is UTF-8, or null where the token is no text by itself."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(ChatTopLogprob, frozen=True):
    """An output token and the likeliest tokens at its place."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """One entry for each output token."""

    content: list[ChatTokenLogprob]


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, one entry for each output token.

    `text_offset` counts characters from the start of the output.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def to_chat_logprobs(found: Sequence[TokenLogprobs]) -> ChatLogprobs:
    """The chat shape."""
    return ChatLogprobs(
        [
            ChatTokenLogprob(
                *_token_parts(entry.chosen), [_to_chat_top(top) for top in entry.top]
            )
            for entry in found
        ]
    )


def to_completion_logprobs(
    found: Sequence[TokenLogprobs], start_offset: int
) -> CompletionLogprobs:
    """The completions shape; `start_offset` is where the first token's text begins."""
    offsets = []
    for entry in found:
        offsets.append(start_offset)
        start_offset += len(entry.chosen.text)
    return CompletionLogprobs(
        tokens=[entry.chosen.text for entry in found],
        token_logprobs=[_finite(entry.chosen.logprob) for entry in found],
        top_logprobs=[_to_completion_top(entry) for entry in found],
        text_offset=offsets,
    )


def _to_chat_top(found: TokenLogprob) -> ChatTopLogprob:
    return ChatTopLogprob(*_token_parts(found))


def _token_parts(found: TokenLogprob) -> tuple[str, float, list[int] | None]:
    is_text = "\ufffd" not in found.text
    return (
        found.text,
        _finite(found.logprob),
        list(found.text.encode()) if is_text else None,
    )


def _to_completion_top(entry: TokenLogprobs) -> dict[str, float]:
    """Alternatives by text, likeliest first; the output token is always among them."""
    by_text: dict[str, float] = {}
    for token in (*entry.top, entry.chosen):
        # Of two tokens with the same text the likelier one stays.
        by_text.setdefault(token.text, _finite(token.logprob))
    return by_text


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)

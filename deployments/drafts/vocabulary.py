"""Whose tokens are whose: the engine's model and the draft model need not have the same.

A token of the engine's is, for the draft model, its own tokens of the same text. The other
way round one token must be one: where the engine has no token of just that text, a draft ends
there. So a draft may be worse than it could be, where the two cut text otherwise, and never
wrong: the engine verifies it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol


class Vocabulary(Protocol):
    """Translates between an engine's tokens and a draft model's."""

    def own_ids(self, token_ids: Sequence[int]) -> Sequence[int]:
        """The draft model's tokens for the engine's."""

    def token_id(self, own_id: int) -> int | None:
        """The engine's token for one of the draft model's; None where there is none."""


class SameVocabulary:
    """Of models that have the same tokens, but for some at the end that only one of them has:
    many are padded to a round number."""

    def __init__(self, num_tokens: int = 1 << 31) -> None:
        """So many are those of both."""
        self._num_tokens = num_tokens

    def own_ids(self, token_ids: Sequence[int]) -> Sequence[int]:
        """See `Vocabulary`."""
        if max(token_ids, default=0) < self._num_tokens:
            return token_ids
        return [token_id for token_id in token_ids if token_id < self._num_tokens]

    def token_id(self, own_id: int) -> int | None:
        """See `Vocabulary`."""
        return own_id if own_id < self._num_tokens else None


class TextVocabulary:
    """Of models whose tokens are those of different tokenizers."""

    def __init__(self, engine: Any, own: Any) -> None:
        """Tokenizers of `transformers`."""
        self._engine, self._own = engine, own
        theirs: Mapping[str, int] = engine.get_vocab()
        self._piece_to_own: Mapping[str, int] = own.get_vocab()
        self._own_to_theirs = {
            own_id: theirs[piece]
            for piece, own_id in self._piece_to_own.items()
            if piece in theirs
        }
        self._of_token = lru_cache(maxsize=65_536)(self._encoded)

    def own_ids(self, token_ids: Sequence[int]) -> Sequence[int]:
        """See `Vocabulary`."""
        return [own_id for token_id in token_ids for own_id in self._of_token(int(token_id))]

    def token_id(self, own_id: int) -> int | None:
        """See `Vocabulary`."""
        return self._own_to_theirs.get(own_id)

    def _encoded(self, token_id: int) -> tuple[int, ...]:
        piece = self._engine.convert_ids_to_tokens(token_id)
        own_id = self._piece_to_own.get(piece)
        if own_id is not None:
            return (own_id,)
        text = self._engine.decode([token_id], skip_special_tokens=False)
        return tuple(self._own.encode(text, add_special_tokens=False))


def vocabulary_between(engine: Any, own: Any, num_tokens: int) -> Vocabulary:
    """Of an engine's tokenizer and a draft model's; both have so many tokens or more."""
    if engine.get_vocab() == own.get_vocab():
        return SameVocabulary(num_tokens)
    return TextVocabulary(engine, own)

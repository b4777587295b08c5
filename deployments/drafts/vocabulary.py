"""Whose tokens are whose: the engine's model and the draft model need not have the same.

A token of the engine's is, for the draft model, its own tokens of the same text. The other
way round one token must be one: where the engine has no token of just that text, a draft ends
there. So a draft may be worse than it could be, where the two cut text otherwise or write
parts of characters in other ways, and never wrong: the engine verifies it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

_BEFORE = "."
"""What stands before a token whose text is asked for."""


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
        theirs, ours = _names(engine), _names(own)
        self._own_to_theirs = {
            own_id: theirs[name] for name, own_id in ours.items() if name in theirs
        }
        self._theirs_to_own = {theirs[name]: ours[name] for name in ours.keys() & theirs.keys()}
        self._before = own.encode(_BEFORE, add_special_tokens=False)
        self._of_token = lru_cache(maxsize=65_536)(self._encoded)

    def own_ids(self, token_ids: Sequence[int]) -> Sequence[int]:
        """See `Vocabulary`."""
        return [own_id for token_id in token_ids for own_id in self._of_token(int(token_id))]

    def token_id(self, own_id: int) -> int | None:
        """See `Vocabulary`."""
        return self._own_to_theirs.get(own_id)

    def _encoded(self, token_id: int) -> tuple[int, ...]:
        own_id = self._theirs_to_own.get(token_id)
        if own_id is not None:
            return (own_id,)
        (text,) = _texts(self._engine, [token_id])
        # Some tokenizers have a text begin with a space: so it does not begin here.
        token_ids = self._own.encode(_BEFORE + text, add_special_tokens=False)
        if token_ids[: len(self._before)] == self._before:
            return tuple(token_ids[len(self._before) :])
        return tuple(self._own.encode(text, add_special_tokens=False))


def _names(tokenizer: Any) -> dict[str, int]:
    """Each token by what is the same in all tokenizers: its text, with its spaces.

    By its piece, as its own tokenizer writes it, where it is no text (the end of an answer), a
    part of a character, or of the same text as one with a lower number.
    """
    pieces: Mapping[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    found: dict[str, int] = {}
    texts = _texts(tokenizer, list(pieces.values()))
    for (piece, token_id), text in sorted(
        zip(pieces.items(), texts, strict=True), key=lambda entry: entry[0][1]
    ):
        is_text = token_id not in special and text and "\ufffd" not in text
        name = f"text {text}" if is_text else f"piece {piece}"
        found.setdefault(name if name not in found else f"piece {piece}", token_id)
    return found


def _texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Of each token behind another one: what begins a text may lose its space."""
    before = tokenizer.encode(_BEFORE, add_special_tokens=False)
    whole = tokenizer.batch_decode(
        [before, *([*before, token_id] for token_id in token_ids)],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return [text.removeprefix(whole[0]) for text in whole[1:]]


def vocabulary_between(engine: Any, own: Any, num_tokens: int) -> Vocabulary:
    """Of an engine's tokenizer and a draft model's; both have so many tokens or more."""
    if engine.get_vocab() == own.get_vocab():
        return SameVocabulary(num_tokens)
    return TextVocabulary(engine, own)

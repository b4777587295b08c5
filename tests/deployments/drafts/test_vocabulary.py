"""Whose tokens are whose."""

from collections.abc import Iterable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from deployments.drafts.vocabulary import SameVocabulary, TextVocabulary, vocabulary_between

SPACE = "\u0120"
"""As byte-level tokenizers write it."""


def tokenizer(*merges: tuple[str, str], reverse: bool = False) -> Any:
    """Of bytes and what the merges make of them, as `transformers` gives it."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - takes seconds

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=reverse)
    pieces = [*alphabet, *("".join(merge) for merge in merges)]
    found = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<end>")


def tokenizer_of_another_kind() -> Any:
    """It writes spaces as SentencePiece does, and begins each text with one."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - takes seconds

    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "a")]
    pieces = ["\u2581", *"thenad.", *("".join(merge) for merge in merges)]
    found = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="</s>")


@pytest.fixture(scope="module")
def engine() -> Any:
    return tokenizer(("t", "h"), ("th", "e"), (SPACE, "the"), ("a", "n"), (SPACE, "."))


@pytest.fixture(scope="module")
def own() -> Any:
    return tokenizer(("h", "e"), ("t", "h"), ("a", "n"), ("an", "d"), reverse=True)


@pytest.fixture(scope="module")
def vocabulary(engine: Any, own: Any) -> TextVocabulary:
    return TextVocabulary(engine, own)


def pieces(tokenizer: Any, token_ids: Iterable[int]) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(list(token_ids))
    return found


def test_of_the_same_tokens_nothing_is_translated(engine: Any) -> None:
    same = vocabulary_between(engine, engine, 9)
    assert isinstance(same, SameVocabulary)
    assert (same.own_ids([7, 8]), same.token_id(7)) == ([7, 8], 7)


def test_tokens_that_one_of_the_models_is_padded_with_are_none_of_the_other() -> None:
    same = SameVocabulary(8)
    assert same.own_ids([7, 8, 3]) == [7, 3]
    assert (same.token_id(7), same.token_id(8)) == (7, None)


def test_the_same_pieces_under_other_numbers_are_translated(engine: Any, own: Any) -> None:
    found = vocabulary_between(engine, own, 3)
    for piece in ("a", "an", "th", "<end>"):
        (own_id,) = found.own_ids(engine.convert_tokens_to_ids([piece]))
        assert own_id != engine.convert_tokens_to_ids(piece)
        assert own_id == own.convert_tokens_to_ids(piece)
        assert found.token_id(own_id) == engine.convert_tokens_to_ids(piece)


def test_a_token_that_the_draft_model_has_not_is_its_tokens_of_the_same_text(
    vocabulary: TextVocabulary, engine: Any, own: Any
) -> None:
    token_ids = engine.encode("an the and .")
    assert pieces(engine, token_ids) == ["an", f"{SPACE}the", SPACE, "an", "d", f"{SPACE}."]
    own_ids = vocabulary.own_ids(token_ids)
    assert pieces(own, own_ids) == ["an", SPACE, "t", "he", SPACE, "an", "d", SPACE, "."]
    assert own.decode(own_ids) == "an the and ."


def test_a_token_that_the_engine_has_not_is_none(vocabulary: TextVocabulary, own: Any) -> None:
    assert vocabulary.token_id(own.convert_tokens_to_ids("and")) is None
    assert vocabulary.token_id(own.convert_tokens_to_ids("he")) is None
    assert vocabulary.token_id(10**6) is None


def test_what_is_translated_back_is_the_same(
    vocabulary: TextVocabulary, engine: Any, own: Any
) -> None:
    for own_id in range(len(own)):
        token_id = vocabulary.token_id(own_id)
        if token_id is not None:
            assert vocabulary.own_ids([token_id]) == [own_id]


def test_a_number_that_is_no_token_has_no_text(vocabulary: TextVocabulary, engine: Any) -> None:
    assert vocabulary.own_ids([len(engine) + 5]) == []


def test_a_space_is_a_space_however_a_tokenizer_writes_it(engine: Any) -> None:
    own = tokenizer_of_another_kind()
    found = vocabulary_between(engine, own, 3)
    token_ids = engine.encode("the the an.")
    assert pieces(engine, token_ids) == ["the", f"{SPACE}the", SPACE, "an", "."]
    own_ids = found.own_ids(token_ids)
    assert pieces(own, own_ids) == ["the", "\u2581the", "\u2581", "a", "n", "."]
    back = [found.token_id(own_id) for own_id in own_ids]
    assert pieces(engine, [i for i in back if i is not None]) == [
        *("the", f"{SPACE}the", SPACE, "a", "n", "."),
    ]
    assert found.token_id(own.eos_token_id) is None, "it ends texts by another token"


def test_each_token_is_translated_once(vocabulary: TextVocabulary, engine: Any) -> None:
    token_ids = engine.encode(" the the the")
    assert vocabulary.own_ids(token_ids) == 3 * list(vocabulary.own_ids(token_ids[:1]))

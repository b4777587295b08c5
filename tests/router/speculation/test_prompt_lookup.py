"""Drafts from the sequence itself."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.speculation.prompt_lookup import MAX_MATCH, PromptLookup
from router.speculation.types import NO_DRAFT, Draft
from tests.reference.speculation import prompt_lookup

RATES = np.array(PromptLookup.prior_rates)


def draft(tokens: list[int], max_tokens: int = 4, min_match: int = 2) -> Draft:
    return PromptLookup(min_match).draft(np.array(tokens, np.int32), max_tokens, RATES)


@given(
    tokens=st.lists(st.integers(0, 2), max_size=40),
    max_tokens=st.integers(1, 10),
    min_match=st.integers(1, 4),
)
def test_it_is_what_followed_the_longest_and_latest_match(
    tokens: list[int], max_tokens: int, min_match: int
) -> None:
    found = draft(tokens, max_tokens, min_match)
    assert list(found.token_ids) == prompt_lookup(tokens, min_match, MAX_MATCH, max_tokens)
    assert len(found.kinds) == len(found.token_ids)


def test_a_repetition_goes_on_for_as_long_as_is_asked() -> None:
    assert draft([7, 8, 9, 7, 8], 7).token_ids == [9, 7, 8, 9, 7, 8, 9]


def test_longer_matches_are_other_kinds() -> None:
    assert draft([1, 2, 3, 4, 5, 1, 2], 3).kinds == [1, 1, 2]
    assert draft([*range(30), *range(20)], 2).kinds == [4, 4]


def test_new_words_have_no_draft() -> None:
    assert draft([1, 2, 3, 4]) == NO_DRAFT
    assert draft([1]) == NO_DRAFT
    assert draft([]) == NO_DRAFT
    assert draft([1, 2, 1, 2], max_tokens=0) == NO_DRAFT

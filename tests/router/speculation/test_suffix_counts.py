"""Drafts from all that an engine has said."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from router.speculation.suffix_counts import BYTES_PER_ENTRY, SuffixCounts
from router.speculation.types import NO_DRAFT, Draft

RATES = np.array(SuffixCounts.prior_rates)
MUCH = 1 << 20


def said(counts: SuffixCounts, tokens: list[int], start: int = 0) -> None:
    counts.saw(np.array(tokens, np.int32), start)
    counts.check_invariants()


def draft(counts: SuffixCounts, tokens: list[int], max_tokens: int = 4) -> Draft:
    return counts.draft(np.array(tokens, np.int32), max_tokens, RATES)


def test_what_one_sequence_said_is_a_draft_for_another() -> None:
    counts = SuffixCounts(MUCH)
    said(counts, [1, 2, 3, 4, 5, 6, 7])
    assert draft(counts, [9, 1, 2, 3]).token_ids == [4, 5, 6, 7]
    assert draft(counts, [9, 1, 2, 3], 2).token_ids == [4, 5]


def test_the_commonest_continuation_is_taken() -> None:
    counts = SuffixCounts(MUCH)
    for following in (4, 5, 5, 4, 5):
        said(counts, [1, 2, 3, following])
    assert draft(counts, [1, 2, 3]).token_ids == [5]


def test_a_longer_context_knows_better() -> None:
    counts = SuffixCounts(MUCH)
    for _ in range(9):
        said(counts, [1, 2, 3, 4])
    for _ in range(4):
        said(counts, [8, 8, 1, 2, 3, 5])
    assert draft(counts, [7, 7, 1, 2, 3], 1).token_ids == [4]
    assert draft(counts, [8, 8, 1, 2, 3], 1).token_ids == [5]


def test_tokens_before_the_start_are_contexts_and_are_not_counted() -> None:
    counts = SuffixCounts(MUCH)
    said(counts, [1, 2, 3, 4, 5], start=4)
    assert draft(counts, [1, 2, 3]) == NO_DRAFT
    assert draft(counts, [2, 3, 4]).token_ids == [5]


def test_what_was_never_said_has_no_draft() -> None:
    counts = SuffixCounts(MUCH)
    said(counts, [1, 2, 3, 4])
    assert draft(counts, [3, 2, 1]) == NO_DRAFT
    assert draft(counts, []) == NO_DRAFT


def test_a_full_table_makes_room_for_what_is_said_often() -> None:
    counts = SuffixCounts(64 * BYTES_PER_ENTRY)
    rng = np.random.default_rng(0)
    for _ in range(50):
        said(counts, rng.integers(0, 1000, 100).tolist())
    for _ in range(100):
        said(counts, [1, 2, 3, 4])
    assert draft(counts, [1, 2, 3], 1).token_ids == [4]


@settings(max_examples=30)
@given(
    texts=st.lists(st.lists(st.integers(0, 2), max_size=60), max_size=20),
    num_entries=st.sampled_from([8, 16, 64]),
)
def test_it_holds_together_however_full(texts: list[list[int]], num_entries: int) -> None:
    counts = SuffixCounts(num_entries * BYTES_PER_ENTRY)
    for text in texts:
        said(counts, text)
        found = draft(counts, text, 5)
        assert set(found.token_ids) <= {0, 1, 2}
        assert len(found.kinds) == len(found.token_ids) <= 5

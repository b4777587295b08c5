"""The usable prefix over all cache groups, against prefixes tried one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.prefix_table import PrefixTable
from cache.types import BlockGroup, Hashes
from cache.usable_prefix import num_needed_blocks, usable_tokens
from tests.reference import prefix_table as reference

FULL = BlockGroup("full", 16)
WINDOW = BlockGroup("sliding_window", 16, window_tokens=33)
STATE = BlockGroup("recurrent", 32)
BITS = (0, 3, 64)
LIVE = np.array([1 << 0 | 1 << 3, 1], np.uint64)


def hashes_of(group: int, count: int) -> Hashes:
    """As different as those of chains are."""
    numbers = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(1000 * group)
    return numbers * np.uint64(0x9E3779B97F4A7C15)


def usable(groups: list[BlockGroup], num_tokens: int, held: list[set[int]]) -> int:
    """Of one holder that has these blocks of each group, by number."""
    table = PrefixTable(1000)
    hashes = [hashes_of(i, num_tokens // g.block_size) for i, g in enumerate(groups)]
    for found, numbers in zip(hashes, held, strict=True):
        table.store(3, found[sorted(numbers)])
    tokens = usable_tokens(groups, hashes, table, LIVE)
    assert tokens.shape == (128,)
    assert tokens.sum() == tokens[3]
    return int(tokens[3])


@pytest.mark.parametrize(
    ("groups", "num_tokens", "held", "expected"),
    [
        ([FULL], 100, [{0, 1, 2, 3, 4, 5}], 96),
        ([FULL], 100, [{0, 1, 3, 4, 5}], 32),
        ([FULL], 100, [set()], 0),
        ([FULL], 15, [set()], 0),
        ([FULL, FULL], 100, [{0, 1, 2, 3}, {0, 1, 2}], 48),
        ([FULL, BlockGroup("full", 32)], 100, [{0, 1, 2, 3, 4}, {0, 1, 2}], 64),
        ([FULL, WINDOW], 160, [set(range(8)), {3, 4, 6, 7}], 128),
        ([FULL, WINDOW], 160, [set(range(8)), {3, 4, 6}], 80),
        ([FULL, WINDOW], 160, [set(range(8)), {0, 3, 6}], 16),
        ([FULL, WINDOW], 160, [set(range(8)), {1, 3, 6}], 0),
        ([FULL, STATE], 160, [set(range(9)), {0, 2}], 96),
        ([FULL, STATE], 160, [set(range(9)), {1, 4}], 64),
        ([FULL, STATE], 160, [{1, 2}, {0, 1, 2}], 0),
        ([STATE], 160, [{2}], 96),
        ([WINDOW], 160, [{4, 5}], 96),
        ([FULL, WINDOW, STATE], 160, [set(range(9)), {2, 3, 6, 7}, {1, 2}], 64),
    ],
)
def test_all_groups_accept_the_prefix(
    groups: list[BlockGroup], num_tokens: int, held: list[set[int]], expected: int
) -> None:
    assert usable(groups, num_tokens, held) == expected


@pytest.mark.parametrize(
    ("window_tokens", "num_needed"), [(1, 0), (2, 1), (17, 1), (18, 2), (33, 2), (4096, 256)]
)
def test_a_window_needs_the_blocks_that_the_next_token_looks_back_on(
    window_tokens: int, num_needed: int
) -> None:
    group = BlockGroup("sliding_window", 16, window_tokens)
    assert num_needed_blocks(group) == num_needed


SIZES = st.sampled_from([1, 2, 3])
GROUPS = st.lists(
    st.one_of(
        st.builds(
            BlockGroup, st.sampled_from(["full", "recurrent"]), st.sampled_from([1, 2, 3])
        ),
        st.builds(
            BlockGroup,
            st.just("sliding_window"),
            st.sampled_from([1, 2, 3]),
            st.integers(1, 6),
        ),
    ),
    min_size=1,
    max_size=3,
)


@given(groups=GROUPS, num_tokens=st.integers(0, 20), data=st.data())
def test_the_prefix_is_that_of_the_slow_twin(
    groups: list[BlockGroup], num_tokens: int, data: st.DataObject
) -> None:
    table, twin = PrefixTable(1000, salt=1), reference.ReferenceTable()
    hashes = [hashes_of(i, num_tokens // g.block_size) for i, g in enumerate(groups)]
    for found in hashes:
        for bit in (*BITS, 5):
            # More there than not, or there is no prefix to speak of.
            gone = data.draw(st.sets(st.integers(0, 20), max_size=3))
            kept = found[[i for i in range(len(found)) if i not in gone]]
            if len(kept):
                table.store(bit, kept)
            twin.store(bit, kept.tolist())
    tokens = usable_tokens(groups, hashes, table, LIVE)
    lists = [found.tolist() for found in hashes]
    expected = {bit: reference.usable_tokens(groups, lists, twin, bit) for bit in BITS}
    assert {bit: int(tokens[bit]) for bit in BITS} == expected
    assert tokens.sum() == sum(expected.values())

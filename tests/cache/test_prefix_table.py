"""The table of blocks, driven together with a dict of sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from numpy.typing import NDArray

from cache.prefix_table import MIN_SLOTS, PrefixTable
from cache.types import Hashes
from tests.reference.prefix_table import ReferenceTable

# With the salt 1 a block's home is in proportion to it: the first are all at home in
# the first slot, the last ones in the last, from where their runs go round.
FIRST, MIDDLE, LAST = range(1, 9), range(2**63, 2**63 + 8), range(2**64 - 8, 2**64)
BLOCKS = st.sampled_from([*FIRST, *MIDDLE, *LAST])
CHAINS = st.lists(BLOCKS, max_size=12)
BITS = st.sampled_from([0, 1, 63, 64, 130, 255])


def as_hashes(blocks: list[int]) -> Hashes:
    return np.array(blocks, np.uint64)


def as_mask(bits: set[int], num_words: int = 4) -> Hashes:
    whole = sum(1 << bit for bit in bits)
    words = [whole >> 64 * word & 2**64 - 1 for word in range(num_words)]
    return np.array(words, np.uint64)


def bits_of(bitmap: NDArray[np.uint64]) -> set[int]:
    whole = sum(int(word) << 64 * i for i, word in enumerate(bitmap))
    return {bit for bit in range(64 * len(bitmap)) if whole >> bit & 1}


class TableMachine(RuleBasedStateMachine):
    """Both are told the same; what the table evicts, the twin is made to forget."""

    @initialize(
        max_blocks=st.sampled_from([1, 2, 7, 100]), salt=st.sampled_from([1, 2**62 + 3])
    )
    def start(self, max_blocks: int, salt: int) -> None:
        self.max_blocks = max_blocks
        self.table = PrefixTable(max_blocks, salt)
        self.twin = ReferenceTable()
        self.num_evicted = 0

    @rule(bit=BITS, blocks=CHAINS)
    def store(self, bit: int, blocks: list[int]) -> None:
        self.table.store(bit, as_hashes(blocks))
        self.twin.store(bit, blocks)
        self.forget_evicted()

    @rule(blocks=CHAINS, bits=st.sets(BITS), num_words=st.sampled_from([3, 4, 5]))
    def merge(self, blocks: list[int], bits: set[int], num_words: int) -> None:
        bits = {bit for bit in bits if bit < 64 * num_words}
        bitmaps = np.tile(as_mask(bits, num_words), (len(blocks), 1))
        self.table.merge(as_hashes(blocks), bitmaps)
        for bit in bits:
            self.twin.store(bit, blocks)
        self.forget_evicted()

    @rule(bit=BITS, blocks=CHAINS)
    def remove(self, bit: int, blocks: list[int]) -> None:
        self.table.remove(bit, as_hashes(blocks))
        self.twin.remove(bit, blocks)

    @rule(bit=BITS)
    def remove_all(self, bit: int) -> None:
        self.remove(bit, [*FIRST, *MIDDLE, *LAST])

    @rule(live=st.sets(BITS), num_words=st.sampled_from([0, 1, 4, 6]))
    def clear_bits(self, live: set[int], num_words: int) -> None:
        live = {bit for bit in live if bit < 64 * num_words}
        self.table.clear_bits(as_mask(live, num_words))
        self.twin.clear_bits(live)

    @rule(blocks=CHAINS, live=st.sets(BITS), num_words=st.sampled_from([1, 4, 6]))
    def look_up(self, blocks: list[int], live: set[int], num_words: int) -> None:
        found = self.table.leading_blocks(as_hashes(blocks), as_mask(live, num_words))
        expected = [
            self.twin.leading_blocks(bit, blocks) if bit in live else 0
            for bit in range(64 * num_words)
        ]
        assert found.tolist() == expected

    @precondition(lambda self: self.max_blocks == 100)
    @rule()
    def nothing_is_evicted_below_the_bound(self) -> None:
        assert self.table.num_evicted == 0

    @invariant()
    def both_have_the_same(self) -> None:
        self.table.check_invariants()
        blocks, bitmaps = self.table.blocks()
        found = dict(zip(blocks.tolist(), map(bits_of, bitmaps), strict=True))
        assert found == self.twin.block_to_bits
        assert len(self.table) == len(found)

    def forget_evicted(self) -> None:
        """An evicted block may be stored again in the same call, and then has fewer
        bits; what was there before and is there now, both had."""
        num_evicted = self.table.num_evicted - self.num_evicted
        self.num_evicted += num_evicted
        if num_evicted:
            assert len(self.table) == self.max_blocks
            blocks, bitmaps = self.table.blocks()
            found = dict(zip(blocks.tolist(), map(bits_of, bitmaps), strict=True))
            assert all(bits <= self.twin.block_to_bits[b] for b, bits in found.items())
            self.twin.block_to_bits = found


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


def random_hashes(count: int) -> Hashes:
    return np.random.default_rng(count).integers(1, 2**64, count, dtype=np.uint64)


def test_a_block_costs_at_most_32_bytes_at_any_size() -> None:
    hashes = random_hashes(30_000)
    table = PrefixTable(10**6)
    for start in range(0, 30_000, 500):
        table.store(start % 64, hashes[start : start + 500])
        assert table.num_bytes <= 27 * len(table)
    for start in range(0, 28_000, 500):
        table.remove(start % 64, hashes[start : start + 500])
        assert table.num_bytes <= 32 * len(table) + 32
    table.check_invariants()


def test_an_empty_table_takes_no_room() -> None:
    table = PrefixTable(10**6)
    hashes = random_hashes(1000)
    table.store(200, hashes)
    assert table.num_words == 4
    table.clear_bits(as_mask(set()))
    assert (len(table), table.num_words, table.num_bytes) == (0, 1, 16 * MIN_SLOTS)


def test_at_the_bound_new_blocks_take_the_places_of_others() -> None:
    table = PrefixTable(max_blocks=1000)
    hashes = random_hashes(5000)
    table.store(0, hashes)
    table.check_invariants()
    assert (len(table), table.num_evicted) == (1000, 4000)


def test_at_the_bound_what_many_hold_stays_longer() -> None:
    table = PrefixTable(max_blocks=1000, salt=12345)
    hashes = random_hashes(3000)
    shared = hashes[:100]
    for bit in range(10):
        table.store(bit, shared)
    table.store(0, hashes[100:])
    assert table.num_evicted == 2000
    num_shared = int(table.bitmaps(shared).any(axis=1).sum())
    assert num_shared > 90
    assert np.array_equal(table.bitmaps(hashes[:0]), np.empty((0, 1), np.uint64))


def test_the_zero_hash_is_in_no_table() -> None:
    table = PrefixTable(max_blocks=10)
    table.store(0, as_hashes([0, 5]))
    table.merge(as_hashes([0]), np.ones((1, 1), np.uint64))
    table.remove(0, as_hashes([0]))
    table.check_invariants()
    assert table.blocks()[0].tolist() == [5]
    assert table.leading_blocks(as_hashes([0]), as_mask({0}, 1)).tolist() == [0] * 64


def test_blocks_of_one_table_fill_another_of_the_same_salt_without_a_crowd() -> None:
    # In the order of their slots, which are homes in ascending order.
    first, second = PrefixTable(10**6, salt=1), PrefixTable(10**6, salt=1)
    first.store(3, random_hashes(20_000))
    second.merge(*first.blocks())
    second.check_invariants()
    assert len(second) == 20_000


@pytest.mark.parametrize("wrong", [np.array([1, 2]), np.array([[1]], np.uint64), [1]])
def test_hashes_of_another_type_are_refused(wrong: Hashes) -> None:
    with pytest.raises(TypeError):
        PrefixTable(10).store(0, wrong)


def test_a_negative_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="bit -1 must not be negative"):
        PrefixTable(10).store(-1, as_hashes([1]))
    with pytest.raises(ValueError, match="bit -1 must not be negative"):
        PrefixTable(10).remove(-1, as_hashes([1]))


@given(st.lists(st.tuples(BITS, CHAINS), max_size=6), BITS)
def test_a_mask_hides_what_it_does_not_have(
    stored: list[tuple[int, list[int]]], live: int
) -> None:
    hidden, only = PrefixTable(100, salt=1), PrefixTable(100, salt=1)
    for bit, blocks in stored:
        hidden.store(bit, as_hashes(blocks))
        if bit == live:
            only.store(bit, as_hashes(blocks))
    asked = as_hashes([1, 2, 2**63, 2**64 - 1])
    found = hidden.leading_blocks(asked, as_mask({live}))
    assert found.tolist() == only.leading_blocks(asked, as_mask(set(range(256)))).tolist()

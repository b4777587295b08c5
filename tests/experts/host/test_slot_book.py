"""Which request may be computed, against the whole history of announcements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from experts.host.slot_book import SlotBook
from experts.types import EMPTY_SLOT, ModelShape

SHAPE = ModelShape(num_layers=2, num_experts=3, top_k=1, hidden_size=1, intermediate_size=1)
NUM_SLOTS = 2
MOVES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, NUM_SLOTS - 1), st.integers(EMPTY_SLOT, 2)),
    max_size=3,
    unique_by=lambda move: move[:2],
)


def moves_of(moves: list[tuple[int, int, int]]) -> NDArray[np.int32]:
    return np.array(moves, np.int32).reshape(len(moves), 3)


def may_be_asked(history: list[NDArray[np.int16]], version: int, layer: int, slot: int) -> bool:
    """Whether the slot holds what it held then, and has done so all the time since."""
    if not 1 <= version <= len(history):
        return False
    since = {int(held[layer, slot]) for held in history[version - 1 :]}
    return len(since) == 1 and EMPTY_SLOT not in since


@given(st.lists(MOVES, max_size=6))
def test_a_request_is_computed_exactly_if_its_slots_are_as_it_was_told(
    waves: list[list[tuple[int, int, int]]],
) -> None:
    book = SlotBook(SHAPE, NUM_SLOTS)
    history = [book.table.held]
    for wave in waves:
        for change in (book.withdraw, book.fill):
            if change(moves_of(wave)):
                history.append(book.table.held)
            book.check_invariants()
            assert book.table.version == len(history)
    for version in range(1, len(history) + 2):
        for layer in range(SHAPE.num_layers):
            for slots in ([0], [1], [0, 1], [1, 1, 0]):
                expected = None
                if all(may_be_asked(history, version, layer, slot) for slot in slots):
                    expected = [int(history[-1][layer, slot]) for slot in slots]
                found = book.experts_of(layer, np.array(slots, np.int32), version)
                assert (None if found is None else found.tolist()) == expected


def test_the_worked_example() -> None:
    shape = ModelShape(1, 8, 1, 1, 1)
    book = SlotBook(shape, 2)
    assert book.table.held.tolist() == [[EMPTY_SLOT, EMPTY_SLOT]]
    assert book.fill(moves_of([(0, 0, 4), (0, 1, 7)]))
    assert book.withdraw(moves_of([(0, 0, 5)]))
    assert book.fill(moves_of([(0, 0, 5)]))
    assert (book.table.version, book.table.held.tolist()) == (4, [[5, 7]])
    zero, one = np.array([0], np.int32), np.array([1], np.int32)
    versions = range(1, 6)
    assert [book.experts_of(0, zero, v) is not None for v in versions] == [0, 0, 0, 1, 0]
    assert [book.experts_of(0, one, v) is not None for v in versions] == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(("slots", "found"), [([0, 2], 2), ([-1, 0], 2**32 - 1)])
@pytest.mark.parametrize("version", [1, 2**64 - 1])
def test_a_slot_that_there_is_not_is_an_error(
    slots: list[int], found: int, version: int
) -> None:
    book = SlotBook(SHAPE, NUM_SLOTS)
    with pytest.raises(IndexError, match=f"slot {found} of 2"):
        book.experts_of(0, np.array(slots, np.int32), version)


def test_an_announcement_that_is_none_does_not_count() -> None:
    book = SlotBook(SHAPE, NUM_SLOTS)
    assert not book.withdraw(moves_of([(0, 0, 1)]))
    assert not book.fill(moves_of([(0, 0, EMPTY_SLOT)]))
    assert not book.fill(moves_of([]))
    assert book.table.version == 1


def test_a_slot_in_use_is_not_filled() -> None:
    book = SlotBook(SHAPE, NUM_SLOTS)
    book.fill(moves_of([(0, 0, 1)]))
    with pytest.raises(AssertionError, match="withdraw first"):
        book.fill(moves_of([(0, 0, 2)]))

"""Experts with too few copies get more, and nobody loses what they need."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.cost import copy_costs
from experts.placement.hosts import possible_copies
from experts.placement.load import Load
from experts.placement.repair import Ints, cover
from experts.types import EMPTY_SLOT
from tests.experts.placement.builders import hosts, load, loads


def covered(
    held: list[int], sizes: list[int], found: Load, min_copies: int = 1
) -> tuple[bool, Ints]:
    row = np.array(held, np.int64)
    slot_to_host = np.repeat(np.arange(len(sizes)), sizes)
    is_done = cover(row, slot_to_host, copy_costs(found, 0, hosts(*sizes)), min_copies)
    return is_done, row


def test_an_empty_slot_is_taken_before_any_other() -> None:
    is_done, row = covered([0, 1, 0, EMPTY_SLOT], [2, 2], load([1, 1, 1]))
    assert is_done
    assert row.tolist() == [0, 1, 0, 2]


def test_a_second_copy_gives_way_on_the_host_that_is_then_the_least_busy() -> None:
    is_done, row = covered([0, 1, 0, 2], [2, 2], load([4, 2, 1, 1]))
    assert is_done
    assert row.tolist() == [0, 1, 3, 2]


def test_a_copy_that_no_direct_step_can_place_is_told() -> None:
    # Expert 2 needs another host, and b has nothing to spare.
    is_done, _ = covered([2, 0, EMPTY_SLOT, 1, 0], [3, 2], load([1, 1, 1]), min_copies=2)
    assert not is_done


@given(
    data=st.data(),
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    wanted=st.integers(1, 2),
)
def test_every_expert_is_covered_where_there_are_slots(
    data: st.DataObject, sizes: list[int], wanted: int
) -> None:
    min_copies = possible_copies(sizes, 3, wanted)
    held = []
    for size in sizes:
        mine = data.draw(st.lists(st.integers(0, 2), max_size=size, unique=True))
        held += mine + [EMPTY_SLOT] * (size - len(mine))
    is_done, row = covered(held, sizes, data.draw(loads(1, 3)), min_copies)
    counts = np.bincount(row[row >= 0], minlength=3)
    assert (counts >= min(min_copies, 1)).all()
    if is_done:
        assert (counts >= min_copies).all()
    before = [held.count(expert) for expert in range(3)]
    assert (counts >= np.minimum(before, min_copies)).all()
    hosts_of = np.repeat(np.arange(len(sizes)), sizes)
    pairs = [(h, e) for h, e in zip(hosts_of, row, strict=True) if e != EMPTY_SLOT]
    assert len(set(pairs)) == len(pairs)

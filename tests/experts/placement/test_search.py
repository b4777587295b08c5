"""Steps from a layer's placement: each helps, and what they reach is near the best."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.cost import copy_costs
from experts.placement.hosts import HostSpec
from experts.placement.load import Load
from experts.placement.search import Ints, Trail, improve
from experts.types import EMPTY_SLOT
from tests.experts.placement.builders import host, hosts, load, loads
from tests.reference.placement import busy


def searched(
    held: list[int], specs: list[HostSpec], found: Load, min_copies: int = 1
) -> tuple[Ints, Trail]:
    row = np.array(held)
    slot_to_host = np.repeat(np.arange(len(specs)), [spec.num_slots for spec in specs])
    trail = improve(row, slot_to_host, copy_costs(found, 0, specs), min_copies, 100)
    assert row.tolist() == held
    return row, trail


def placement_of(held: list[int], specs: list[HostSpec]) -> list[list[int]]:
    slots = iter(held)
    rows = [list(itertools.islice(slots, spec.num_slots)) for spec in specs]
    return [[expert for expert in row if expert != EMPTY_SLOT] for row in rows]


@pytest.mark.parametrize(
    ("held", "sizes", "expected"),
    [
        ([0, 1, 2, 3], [2, 2], [2, 1, 0, 3]),
        ([0, 1, 2, 3, EMPTY_SLOT], [2, 3], [0, 1, 2, 3, 0]),
    ],
)
def test_the_worked_example_of_the_module(
    held: list[int], sizes: list[int], expected: list[int]
) -> None:
    row, trail = searched(held, hosts(*sizes), load([4, 3, 2, 1]))
    trail.replay(row, 1)
    assert sorted(row[:2].tolist()) == sorted(expected[:2])
    assert sorted(row[2:].tolist()) == sorted(expected[2:])
    assert trail.slowest.tolist() == [7, 5]


def test_an_expert_moves_to_an_empty_slot_where_that_is_best() -> None:
    row, trail = searched([0, 1, EMPTY_SLOT, EMPTY_SLOT], hosts(2, 2), load([2, 2]), 1)
    trail.replay(row, len(trail.steps))
    assert trail.slowest.tolist() == [4, 2]
    assert trail.num_filled.tolist() == [0, 1]


def test_copies_that_must_be_kept_are_not_replaced() -> None:
    held = [0, 1, 0, 2]
    _, free = searched(held, hosts(2, 2), load([0, 8, 1]), min_copies=1)
    assert len(free.steps) > 0
    specs = hosts(2, 2)
    row, bound = searched([0, 1, 0, 1], specs, load([2, 8]), min_copies=2)
    bound.replay(row, len(bound.steps))
    assert row.tolist() == [0, 1, 0, 1]


def test_a_slow_host_gets_the_lighter_experts() -> None:
    specs = [host("a", 2, slow=3), host("b", 2)]
    row, trail = searched([0, 1, 2, 3], specs, load([5, 5, 1, 1]))
    trail.replay(row, len(trail.steps))
    assert sorted(row[:2].tolist()) == [2, 3]
    assert trail.slowest.tolist()[-1] == 10


@given(
    data=st.data(),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    slow=st.lists(st.sampled_from([1.0, 2.0]), min_size=3, max_size=3),
    min_copies=st.integers(1, 2),
)
def test_each_step_is_legal_and_leaves_the_slowest_no_slower(
    data: st.DataObject, sizes: list[int], slow: list[float], min_copies: int
) -> None:
    specs = [host("abc"[i], size, slow=slow[i]) for i, size in enumerate(sizes)]
    found = data.draw(loads(1, 4))
    held = []
    for size in sizes:
        mine = data.draw(st.lists(st.integers(0, 3), max_size=size, unique=True))
        held += mine + [EMPTY_SLOT] * (size - len(mine))
    row, trail = searched(held, specs, found, min_copies)
    before = np.bincount(row[row >= 0], minlength=4)
    for number in range(len(trail.steps) + 1):
        now = row.copy()
        trail.replay(now, number)
        placement = placement_of(now.tolist(), specs)
        assert all(len(set(experts)) == len(experts) for experts in placement)
        counts = np.bincount(now[now >= 0], minlength=4)
        assert (counts >= np.minimum(before, min_copies)).all()
        expected = max(busy(placement, found, 0, specs))
        assert trail.slowest[number] == pytest.approx(expected)
        assert (now != row).sum() <= 2 * number
    assert (np.diff(trail.slowest) <= 1e-9).all()

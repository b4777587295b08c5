"""Packing from nothing: every expert has its copies, and no slot is left without reason."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.cost import copy_costs
from experts.placement.hosts import possible_copies
from experts.placement.load import Load
from experts.placement.pack import Flags, num_copies, pack
from tests.experts.placement.builders import host, hosts, load, loads

SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def packed(
    found: Load, sizes: list[int], min_copies: int = 1, slow: tuple[float, ...] = (1,) * 4
) -> Flags:
    specs = [host("abcd"[i], size, slow=slow[i]) for i, size in enumerate(sizes)]
    return pack(copy_costs(found, 0, specs), np.array(sizes), min_copies)


def by_host(has: Flags) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in has]


def test_the_worked_example_of_the_module() -> None:
    assert by_host(packed(load([2, 1]), [2, 1])) == [[0, 1], [0]]
    assert by_host(packed(load([9, 1, 1]), [2, 1])) == [[0, 2], [1]]


def test_the_heaviest_is_replicated_until_its_copies_are_light() -> None:
    cost = copy_costs(load([12, 5, 4, 3]), 0, hosts(4, 4, 4))
    assert num_copies(cost, 7, min_copies=1).tolist() == [3, 2, 1, 1]
    assert num_copies(cost, 100, min_copies=1).tolist() == [3, 3, 3, 3]
    assert num_copies(cost, 8, min_copies=2).tolist() == [2, 2, 2, 2]


def test_the_costliest_goes_first_to_the_least_busy_host() -> None:
    assert by_host(packed(load([1, 2, 3, 4]), [2, 2])) == [[0, 3], [1, 2]]


def test_experts_with_nothing_to_do_are_spread_too() -> None:
    assert by_host(packed(load([0, 0, 0, 0]), [2, 2])) == [[0, 2], [1, 3]]


def test_a_large_slow_host_takes_what_else_would_find_no_room() -> None:
    # Each would rather be on the two fast hosts, where there is room for one.
    has = packed(load([1, 1]), [2, 1, 1], min_copies=2, slow=(9, 1, 1))
    assert by_host(has) == [[0, 1], [0], [1]]


@given(
    data=st.data(),
    sizes=SIZES,
    slow=st.tuples(*[st.sampled_from([1.0, 3.0])] * 4),
    num_experts=st.integers(1, 5),
    wanted=st.integers(1, 3),
)
def test_each_expert_has_its_copies_on_different_hosts(
    data: st.DataObject,
    sizes: list[int],
    slow: tuple[float, ...],
    num_experts: int,
    wanted: int,
) -> None:
    min_copies = possible_copies(sizes, num_experts, wanted)
    has = packed(data.draw(loads(1, num_experts)), sizes, min_copies, slow)
    assert (has.sum(axis=0) >= min_copies).all()
    used = [min(size, num_experts) for size in sizes]
    assert has.sum(axis=1).tolist() == used

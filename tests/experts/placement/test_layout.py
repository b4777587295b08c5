"""Maps laid out over other hosts, and slots put in an order that keeps what is there."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.layout import aligned, empty_map, experts_by_host, with_hosts
from experts.types import EMPTY_SLOT
from tests.experts.placement.builders import expert_map, host, hosts

ROW = st.lists(st.integers(EMPTY_SLOT, 3), min_size=5, max_size=5)


def test_a_dead_hosts_copies_vanish_and_a_new_hosts_slots_are_empty() -> None:
    a, b, c = host("a", 2), host("b", 1), host("c", 2)
    found = with_hosts(expert_map([a, b], [0, 1, 2], version=7), [c, b])
    found.check_invariants()
    assert found == expert_map([c, b], [EMPTY_SLOT, EMPTY_SLOT, 2], version=8)


def test_the_same_hosts_are_the_same_map() -> None:
    specs = hosts(2, 1)
    found = expert_map(specs, [0, 1, 2])
    assert with_hosts(found, specs) is found


def test_a_map_of_nothing_is_version_0() -> None:
    found = empty_map(2, 3, hosts(1, 2))
    found.check_invariants()
    assert found.version == 0
    assert found.physical_to_logical.tolist() == [[EMPTY_SLOT] * 3] * 2


def test_experts_stay_in_their_slots_and_new_ones_go_to_empty_slots_first() -> None:
    first = np.array([0, 3, 5], np.int32)
    current = np.array([0, 1, EMPTY_SLOT, 2, 3])
    target = np.array([4, 1, EMPTY_SLOT, 3, 0])
    assert aligned(current, target, first).tolist() == [EMPTY_SLOT, 1, 4, 0, 3]


@given(ROW, ROW)
def test_each_host_holds_the_same_and_as_much_as_can_be_stays(
    current: list[int], target: list[int]
) -> None:
    specs = hosts(3, 0, 2)
    first = np.array([0, 3, 3, 5], np.int32)
    found = aligned(np.array(current), np.array(target), first)
    wanted = experts_by_host(expert_map(specs, [*target], [3] * 5), 0)
    assert experts_by_host(expert_map(specs, found.tolist(), [3] * 5), 0) == wanted
    stay = sum(int(c == f != EMPTY_SLOT) for c, f in zip(current, found, strict=True))
    there = experts_by_host(expert_map(specs, [*current], [3] * 5), 0)
    most = sum(
        min(there[spec.host].count(e), wanted[spec.host].count(e))
        for spec in specs
        for e in range(4)
    )
    assert stay == most

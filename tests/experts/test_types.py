"""The expert map, and what is derived from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.types import EMPTY_SLOT, ExpertMap, HostId


def expert_map(rows: list[list[int]], sizes: list[int], num_experts: int = 3) -> ExpertMap:
    return ExpertMap(
        version=1,
        num_experts=num_experts,
        hosts=tuple(HostId(f"h{i}") for i in range(len(sizes))),
        host_to_first_slot=np.cumsum([0, *sizes], dtype=np.int32),
        physical_to_logical=np.array(rows, np.int16).reshape(len(rows), sum(sizes)),
    )


def test_the_worked_example_of_the_module() -> None:
    found = expert_map([[0, 1, 2, 0]], [2, 2])
    found.check_invariants()
    assert found.slot_to_host.tolist() == [0, 0, 1, 1]
    assert found.num_copies.tolist() == [[2, 1, 1]]
    (copies,) = found.logical_to_physical
    assert [copies.of_expert(e).tolist() for e in range(3)] == [[0, 3], [1], [2]]
    assert found.is_covering


def test_a_map_without_a_copy_of_some_expert_does_not_cover() -> None:
    found = expert_map([[0, 1, EMPTY_SLOT], [0, 1, 2]], [2, 1])
    found.check_invariants()
    assert not found.is_covering


@pytest.mark.parametrize("rows", [[[0, 3]], [[-2, 0]]])
def test_an_expert_that_does_not_exist_breaks_the_invariants(rows: list[list[int]]) -> None:
    with pytest.raises(AssertionError):
        expert_map(rows, [1, 1]).check_invariants()


@given(st.lists(st.lists(st.integers(-1, 2), min_size=5, max_size=5), min_size=1, max_size=3))
def test_each_copy_is_found_under_its_expert_alone(rows: list[list[int]]) -> None:
    found = expert_map(rows, [2, 0, 3])
    found.check_invariants()
    for row, copies in zip(rows, found.logical_to_physical, strict=True):
        for expert in range(3):
            slots = [slot for slot, held in enumerate(row) if held == expert]
            assert copies.of_expert(expert).tolist() == slots

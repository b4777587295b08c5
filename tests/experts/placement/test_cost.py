"""What copies cost, against copies added up one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.cost import (
    copy_costs,
    host_times,
    imbalance,
    mean_time,
    slowest_time,
)
from experts.placement.hosts import HostSpec
from experts.placement.layout import experts_by_host
from experts.placement.load import Load
from experts.types import HostId
from tests.experts.placement.builders import expert_map, host, host_lists, load, loads, maps
from tests.reference.placement import busy

TWO = [HostSpec(HostId("a"), 1), HostSpec(HostId("b"), 1)]
SPLITS = st.sampled_from([1, 2, None])


@pytest.mark.parametrize(("split_tokens", "expected_ms"), [(None, [2.2, 1.1]), (2, [2.2, 2.1])])
def test_the_worked_example_of_the_module(
    split_tokens: float | None, expected_ms: list[float]
) -> None:
    four_each = Load(np.array([[400.0]]), np.array([[100.0]]))
    cost = copy_costs(four_each, 0, TWO, split_tokens)
    assert cost.shape == (1, 3, 2)
    assert 1000 * cost[0, 1:, 0] == pytest.approx(expected_ms)
    assert (cost[0, :, 0] == cost[0, :, 1]).all()
    assert (cost[0, 0] == 0).all()


def test_a_slower_host_takes_longer() -> None:
    specs = [host("a"), host("b", slow=3)]
    assert copy_costs(load([2]), 0, specs)[0].tolist() == [[0, 0], [2, 6], [1, 3]]


def test_imbalance_adds_up_the_slowest_of_each_layer() -> None:
    times = np.array([[4.0, 2.0], [1.0, 3.0]])
    assert slowest_time(times) == 7
    assert mean_time(times) == 5
    assert imbalance(times) == 1.4
    assert imbalance(0 * times) == 1


@given(data=st.data(), specs=host_lists(), split_tokens=SPLITS)
def test_host_times_are_those_of_the_slow_twin(
    data: st.DataObject, specs: list[HostSpec], split_tokens: float | None
) -> None:
    found = data.draw(loads(2, 3))
    placed = data.draw(maps(specs, 2, 3))
    times = host_times(placed, found, specs, split_tokens)
    for layer in range(2):
        placement = list(experts_by_host(placed, layer).values())
        expected = busy(placement, found, layer, specs, split_tokens)
        assert times[layer].tolist() == pytest.approx(expected)


@given(data=st.data(), specs=host_lists("abcd"), split_tokens=SPLITS)
def test_copy_costs_are_what_a_copy_adds_to_its_host(
    data: st.DataObject, specs: list[HostSpec], split_tokens: float | None
) -> None:
    found = data.draw(loads(1, 2))
    cost = copy_costs(found, 0, specs, split_tokens)
    for copies in range(1, len(specs) + 1):
        placement = [[1] if i < copies else [] for i in range(len(specs))]
        expected = busy(placement, found, 0, specs, split_tokens)[:copies]
        assert cost[1, copies, :copies].tolist() == pytest.approx(expected)


def test_an_expert_without_a_copy_costs_nothing() -> None:
    specs = [host("a"), host("b")]
    assert host_times(expert_map(specs, [0, 2, -1, 0]), load([2, 9, 1]), specs).tolist() == [
        [2, 1]
    ]

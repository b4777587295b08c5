"""Costs learnt from calls: exact where they can be, and not led astray."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.types import HostId
from router.dispatch.cost_fit import NUM_FIRST, minimise
from router.dispatch.cost_model import CostModel
from router.dispatch.settings import DispatchSection
from tests.reference import least_squares as reference

Costs = tuple[float, float, float]
PRIOR = (200e-6, 20e-6, 2e-6)
A, B, C = HostId("a"), HostId("b"), HostId("c")


def cost_model(*hosts: HostId) -> CostModel:
    model = CostModel(DispatchSection())
    model.set_hosts(hosts or (A,))
    return model


def seconds(costs: Costs, num_experts: int, num_pairs: int) -> float:
    return costs[0] + costs[1] * num_experts + costs[2] * num_pairs


def watch(
    model: CostModel,
    costs: Costs,
    num_calls: int,
    host: int = 0,
    noise: Callable[[random.Random], float] = lambda rng: 1.0,
) -> None:
    """Calls of many sizes."""
    rng = random.Random(1)
    for call in range(num_calls):
        num_experts = rng.randint(1, 16)
        num_pairs = num_experts * rng.randint(1, 64)
        taken_s = seconds(costs, num_experts, num_pairs) * noise(rng)
        model.observe(host, num_experts, num_pairs, taken_s)
        if call % 100 == 0:
            model.check_invariants()
    model.check_invariants()


def test_a_host_is_taken_to_need_what_the_section_says_until_calls_are_measured() -> None:
    model = cost_model(A, B)
    watch(model, (1e-3, 1e-3, 1e-3), NUM_FIRST - 1)
    assert model.costs() == pytest.approx(np.array([PRIOR, PRIOR]))


@pytest.mark.parametrize(
    "costs",
    [(1e-4, 5e-5, 1e-6), (1e-2, 1e-3, 1e-3), (3e-6, 2e-7, 1e-7), (1e-3, 0.0, 1e-6)],
)
def test_costs_are_found_whatever_the_prior(costs: Costs) -> None:
    model = cost_model()
    watch(model, costs, 5000)
    assert model.costs()[0] == pytest.approx(costs, rel=0.02, abs=1e-4 * costs[0])


def test_noise_is_averaged_out() -> None:
    costs = (1e-4, 5e-5, 1e-6)
    model = cost_model()
    watch(model, costs, 2000, noise=lambda rng: rng.uniform(0.8, 1.2))
    assert model.costs()[0] == pytest.approx(costs, rel=0.15)


def test_calls_that_took_a_hundred_times_as_long_change_next_to_nothing() -> None:
    costs = (1e-4, 5e-5, 1e-6)
    model = cost_model()
    watch(model, costs, 2000, noise=lambda rng: 100.0 if rng.random() < 0.05 else 1.0)
    assert model.costs()[0] == pytest.approx(costs, rel=0.05)


def test_a_slow_start_is_forgotten() -> None:
    model = cost_model()
    for taken_s in (0.5, 0.3, 1e-3, 1e-3, 1e-3):
        model.observe(0, 1, 1, taken_s)
    assert seconds(tuple(model.costs()[0]), 1, 1) == pytest.approx(1e-3)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_host_that_has_changed_is_known_again_soon(factor: float) -> None:
    costs = (1e-4, 5e-5, 1e-6)
    model = cost_model()
    watch(model, costs, 2000)
    watch(model, (costs[0] * factor, costs[1] * factor, costs[2] * factor), 30)
    expected = [cost * factor for cost in costs]
    assert model.costs()[0] == pytest.approx(expected, rel=0.1)


def test_costs_that_calls_do_not_tell_apart_stay_as_they_are() -> None:
    costs = (1e-4, 5e-5, 1e-6)
    model = cost_model()
    watch(model, costs, 2000)
    for _ in range(5000):
        model.observe(0, 4, 4, seconds(costs, 4, 4))
    model.check_invariants()
    assert model.costs()[0] == pytest.approx(costs, rel=0.05)


def test_each_host_has_costs_of_its_own() -> None:
    model = cost_model(A, B)
    watch(model, (1e-3, 1e-4, 1e-5), 1000, host=1)
    assert model.costs()[0] == pytest.approx(PRIOR)
    assert model.costs()[1] == pytest.approx((1e-3, 1e-4, 1e-5), rel=0.02)


def test_a_host_keeps_its_costs_when_others_come_and_go_and_new_ones_begin_with_them() -> None:
    model = cost_model(A, B)
    watch(model, (1e-3, 1e-4, 1e-5), 1000, host=1)
    known = model.costs()[1].copy()
    model.set_hosts([C, B])
    model.check_invariants()
    assert np.array_equal(model.costs(), np.array([known, known]))
    model.set_hosts([B])
    watch(model, (1e-3, 1e-4, 1e-5), 10)
    assert model.costs()[0] == pytest.approx((1e-3, 1e-4, 1e-5), rel=0.02)


def test_a_call_without_pairs_is_no_observation() -> None:
    with pytest.raises(AssertionError):
        cost_model().observe(0, 0, 0, 1.0)


ROW = st.lists(st.integers(-2, 3), min_size=3, max_size=3)


@given(rows=st.lists(ROW, max_size=4), b=ROW)
def test_the_minimum_without_numbers_below_zero_is_that_of_the_slow_twin(
    rows: list[list[int]], b: list[int]
) -> None:
    x = np.array(rows, float).reshape(-1, 3)
    a, found = x.T @ x + 0.5 * np.eye(3), np.empty(3)
    minimise(a, np.array(b, float), found)
    expected = reference.minimise(a.tolist(), [float(number) for number in b])
    assert found == pytest.approx(expected, abs=1e-6)


@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 100]),
            st.sampled_from([1, 2, 10000]),
            st.sampled_from([1e-9, 1e-5, 1e-3, 60.0]),
        ),
        max_size=60,
    )
)
def test_no_calls_however_odd_break_the_model(calls: list[tuple[int, int, float]]) -> None:
    model = cost_model()
    for num_experts, num_pairs, taken_s in calls:
        model.observe(0, num_experts, num_pairs, taken_s)
        model.check_invariants()

"""The placement bench by small cases: what it says holds of any of them."""

import pytest

from tests.bench.placement_cases import (
    dealt_out,
    fleet,
    measure_drift,
    measure_even,
    measure_unequal,
)

SMALL = ((2, 16, 4),)


def test_experts_dealt_out_cover_and_are_never_twice_on_a_host() -> None:
    found = dealt_out(SMALL[0], fleet(16, 4, 1.5))
    found.check_invariants()
    assert found.is_covering
    assert found.physical_to_logical[0, :6].tolist() == [0, 4, 8, 12, 3, 7]


def test_no_algorithm_is_below_the_least_and_cost_is_the_most_even() -> None:
    rows = list(measure_even(SMALL, hosts=(4,), factors=(1.0, 1.5), powers=(1.2,)))
    assert len(rows) == 4
    for row in rows:
        assert 1 <= row.least <= row.cost <= min(row.eplb, row.round_robin)


def test_unequal_hosts_take_longer_than_work_divided_at_will() -> None:
    (row,) = measure_unequal(SMALL, hosts=(4,), factors=(1.5,), powers=(0.8,))
    assert 1 <= row.cost <= min(row.eplb, row.round_robin)


def test_a_drifting_load_makes_both_move() -> None:
    (row,) = measure_drift(SMALL, hosts=(4,), factors=(1.5,), num_periods=3)
    assert row.cost_planned <= row.eplb_planned
    assert row.cost_planned == pytest.approx(1.0, abs=0.05)
    assert row.cost_moves_per_layer > 0
    assert row.eplb_moves_per_layer > 0

"""When to rebalance: at once where it must be, seldom otherwise, and never to and fro."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from experts.placement.cost import host_times, imbalance
from experts.placement.layout import experts_by_host
from experts.placement.load import Load
from experts.placement.plan import plan
from experts.placement.rebalance import decide
from experts.settings import AlgorithmName, RebalanceSection
from experts.types import EMPTY_SLOT
from infra.errors import ConfigError
from tests.experts.placement.builders import expert_map, host, hosts, load

SETTINGS = RebalanceSection(min_interval_s=60, min_gain=0.1)
UNEVEN = load([7, 5, 3, 1])
TWO = hosts(2, 3)
POOR = expert_map(TWO, [0, 1, 2, 3, EMPTY_SLOT])


def test_a_gain_is_taken_when_the_last_rebalance_is_long_enough_ago() -> None:
    for last_s in (None, 40.0):
        found = decide(100.0, last_s, UNEVEN, TWO, POOR, SETTINGS)
        assert found is not None
        assert found.reason == "imbalance"
        assert found.start is POOR
        before, after = (host_times(m, UNEVEN, TWO) for m in (POOR, found.target))
        assert found.gain == pytest.approx(imbalance(before) - imbalance(after))
        assert found.gain > 0.3
    assert decide(100.0, 41.0, UNEVEN, TWO, POOR, SETTINGS) is None


def test_a_gain_below_the_threshold_is_left_alone() -> None:
    found = decide(0.0, None, UNEVEN, TWO, POOR, replace_gain(0.6))
    assert found is None


def replace_gain(min_gain: float) -> RebalanceSection:
    return SETTINGS.model_copy(update={"min_gain": min_gain})


def test_a_broken_coverage_is_mended_at_once() -> None:
    current = expert_map(TWO, [0, 1, 0, 3, EMPTY_SLOT])
    current = replace(current, num_experts=4)
    found = decide(0.0, 0.0, UNEVEN, TWO, current, SETTINGS)
    assert found is not None
    assert found.reason == "uncovered"
    assert found.target.is_covering
    assert found.waves[0].moves[0].expert == 2


def test_a_host_that_dies_without_a_loss_leaves_a_new_map_at_once() -> None:
    current = expert_map(hosts(2, 2), [0, 1, 0, 1])
    found = decide(0.0, 0.0, load([1, 1]), hosts(2), current, SETTINGS)
    assert found is not None
    assert (found.reason, found.waves) == ("hosts", ())
    assert found.target.hosts == ("a",)


def test_a_host_that_joins_is_used_at_once() -> None:
    current = expert_map([host("a", 4)], [0, 1, 2, 3])
    specs = [host("a", 4), host("b", 4)]
    found = decide(0.0, 0.0, UNEVEN, specs, current, SETTINGS)
    assert found is not None
    assert found.reason == "hosts"
    assert found.gain == pytest.approx(1.0)


def test_the_order_in_which_hosts_are_named_is_no_news() -> None:
    assert decide(0.0, 0.0, UNEVEN, TWO[::-1], POOR, SETTINGS) is None


def test_a_leaving_host_is_emptied_at_once_and_then_left_alone() -> None:
    specs = [host("a", 4), host("b", 2, is_leaving=True)]
    current = expert_map(specs, [0, 1, EMPTY_SLOT, EMPTY_SLOT, 2, 3])
    found = decide(0.0, 0.0, UNEVEN, specs, current, SETTINGS)
    assert found is not None
    assert found.reason == "drain"
    assert experts_by_host(found.target, 0) == {"a": [0, 1, 2, 3], "b": []}
    assert decide(0.0, 0.0, UNEVEN, specs, found.target, SETTINGS) is None


def test_missing_second_copies_are_made_at_once_where_there_is_room() -> None:
    two = SETTINGS.model_copy(update={"min_copies": 2})
    current = expert_map(hosts(2, 2), [0, 1, EMPTY_SLOT, EMPTY_SLOT])
    found = decide(0.0, 0.0, load([1, 1]), hosts(2, 2), current, two)
    assert found is not None
    assert found.reason == "copies"
    assert found.target.num_copies.tolist() == [[2, 2]]
    assert decide(0.0, 0.0, load([1, 1]), hosts(2, 2), found.target, two) is None


def test_too_few_slots_are_the_operators_to_mend() -> None:
    with pytest.raises(ConfigError):
        decide(0.0, 0.0, UNEVEN, hosts(2), POOR, SETTINGS)


def test_an_idle_model_is_not_rebalanced() -> None:
    assert decide(0.0, None, load([0, 0, 0, 0]), TWO, POOR, SETTINGS) is None


@runs(max_examples=30)
@given(seed=st.integers(0, 2**16), algorithm=st.sampled_from(["cost", "eplb"]))
def test_a_steady_noisy_load_is_rebalanced_once_more_at_most(
    seed: int, algorithm: AlgorithmName
) -> None:
    rng = np.random.default_rng(seed)
    specs = hosts(5, 5, 5, 5)
    mean = rng.pareto(1.5, (2, 16)) + 0.1

    def noisy() -> Load:
        # Half of `min_gain`: each host time is wrong by less than that.
        rates = mean * rng.uniform(0.95, 1.05, mean.shape)
        return Load(2 * rates, rates)

    settings = SETTINGS.model_copy(update={"algorithm": algorithm})
    # For another load: the first rebalance finds the one that stays.
    other = load(*rng.pareto(1.5, (2, 16)))
    current, last_s, num_rebalances = plan(other, specs, None, settings), 0.0, 0
    for now_s in range(60, 60 * 20, 60):
        found = decide(float(now_s), last_s, noisy(), specs, current, settings)
        if found is not None:
            current, last_s = found.target, float(now_s)
            num_rebalances += 1
    current.check_invariants()
    assert num_rebalances <= 2

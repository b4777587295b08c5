"""How many engine replicas are wanted."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scaling.engine_demand import (
    KEEP_SHARE,
    EngineScaler,
    EngineSignals,
    Fleet,
    Lasting,
    Trend,
    demand,
    waits_demand,
)
from router.scaling.settings import EngineScalingSection

SEQS = 32
TARGETS = EngineScalingSection(
    target_occupancy=0.7,
    target_prefill_share=0.8,
    target_wait_s=2.0,
    target_kv_usage=0.75,
    look_ahead=False,
)
AHEAD = TARGETS.model_copy(update={"look_ahead": True})


def signals(num_sequences: float = 0, **others: float) -> EngineSignals:
    return EngineSignals(num_sequences, 0, 0, 0, 0, 0)._replace(**others)


def fleet(
    replicas: Sequence[EngineSignals], num_replicas: int | None = None, num_held: float = 0
) -> Fleet:
    """All of them have told where nothing else is said."""
    count = len(replicas) if num_replicas is None else num_replicas
    return Fleet(replicas, count, num_held, start_s=30)


def test_sequences_are_counted_wherever_they_wait() -> None:
    two = [signals(20), signals(24)]
    assert demand(fleet(two, num_held=16), SEQS, TARGETS) == pytest.approx(60 / 22.4)


def test_prompts_take_a_share_of_the_time() -> None:
    two = [
        signals(asked_tokens_per_s=900, prefill_tokens_per_s=2000),
        signals(asked_tokens_per_s=4100, prefill_tokens_per_s=3000),
    ]
    assert demand(fleet(two), SEQS, TARGETS) == pytest.approx(5000 / (2500 * 0.8))


def test_prompts_wait_for_others_no_longer_than_is_aimed_at() -> None:
    two = [
        signals(waiting_tokens=9000, prefill_tokens_per_s=2000),
        signals(waiting_tokens=1000, prefill_tokens_per_s=3000),
    ]
    assert waits_demand(fleet(two), TARGETS) == pytest.approx(10_000 / (2500 * 2.0))


def test_one_that_has_not_computed_a_prompt_yet_says_nothing_of_speed() -> None:
    two = [
        signals(waiting_tokens=4000, prefill_tokens_per_s=2000),
        signals(waiting_tokens=4000, prefill_tokens_per_s=0),
    ]
    assert waits_demand(fleet(two), TARGETS) == pytest.approx(8000 / (2000 * 2.0))
    assert waits_demand(fleet([two[1]]), TARGETS) == 0


def test_a_queue_counts_once_it_is_as_old_as_a_replica_takes_to_start() -> None:
    scaler = EngineScaler(SEQS, TARGETS)
    queue = [signals(1, waiting_tokens=16_000, prefill_tokens_per_s=2000)]
    found = [scaler.wanted(now_s, fleet(queue)) for now_s in range(0, 60, 10)]
    assert found == [1, 1, 1, 4, 4, 4]


def test_a_queue_that_was_gone_for_a_moment_is_a_new_one() -> None:
    scaler = EngineScaler(SEQS, TARGETS)
    for now_s in range(0, 300, 10):
        waiting = 0 if now_s % 30 == 0 else 16_000
        queue = [signals(1, waiting_tokens=waiting, prefill_tokens_per_s=2000)]
        assert scaler.wanted(now_s, fleet(queue)) == 1


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 9)), min_size=1, max_size=40),
    st.floats(0, 12),
)
def test_what_lasts_is_the_least_of_the_window(
    steps: list[tuple[float, float]], window_s: float
) -> None:
    lasting, now_s, points = Lasting(), 0.0, []
    for passed_s, value in steps:
        now_s += passed_s
        points.append((now_s, value))
        found = lasting.note(now_s, value, window_s)
        lasting.check_invariants()
        least = min(each for at_s, each in points if at_s >= now_s - window_s)
        assert found == (least if now_s - points[0][0] >= window_s else 0)


def test_full_caches_want_another_replica() -> None:
    two = [signals(1, kv_usage=0.9)] * 2
    assert demand(fleet(two), SEQS, TARGETS) == pytest.approx(2.4)


def test_slow_steps_want_another_replica_where_a_pace_is_aimed_at() -> None:
    targets = TARGETS.model_copy(update={"target_tpot_s": 0.05})
    three = [signals(4, tpot_s=0.07), signals(4, tpot_s=0.08), signals(0, tpot_s=0.9)]
    assert demand(fleet(three), SEQS, targets) == pytest.approx(0.15 / 0.05)
    assert demand(fleet(three), SEQS, TARGETS) < 1


def test_requests_that_are_held_want_a_first_replica() -> None:
    scaler = EngineScaler(SEQS, TARGETS)
    assert scaler.wanted(0, fleet([])) == 0
    assert scaler.wanted(1, fleet([], num_held=1)) == 1
    assert scaler.wanted(2, fleet([], num_held=100)) == 5


def test_what_was_asked_of_late_keeps_no_replica() -> None:
    scaler = EngineScaler(SEQS, TARGETS)
    flow = {"asked_tokens_per_s": 900.0, "prefill_tokens_per_s": 1000.0}
    assert scaler.wanted(0, fleet([signals(1, **flow)])) == 2
    assert scaler.wanted(10, fleet([signals(0, **flow)])) == 0


def test_the_worked_example() -> None:
    scaler = EngineScaler(SEQS, TARGETS)
    assert scaler.wanted(0, fleet([signals(30)] * 2)) == 3
    assert scaler.wanted(1, fleet([signals(44 / 3)] * 3)) == 3
    assert scaler.wanted(2, fleet([signals(40 / 3)] * 3)) == 2


def test_a_load_that_grows_is_met_before_it_is_there() -> None:
    """One sequence more a second; a replica takes 30 s."""
    at_once, ahead = (EngineScaler(SEQS, t) for t in (TARGETS, AHEAD))
    found: dict[str, int] = {}
    for now_s in range(60):
        load = [signals(float(now_s))]
        for name, scaler in (("at once", at_once), ("ahead", ahead)):
            if scaler.wanted(now_s, fleet(load)) > 1:
                found.setdefault(name, now_s)
    # 22.4 sequences are one replica's; half of them is the soonest that is believed.
    assert found == {"at once": 23, "ahead": 12}


def test_a_trend_needs_some_points() -> None:
    trend = Trend()
    for now_s in range(3):
        trend.note(now_s, now_s, 10)
        assert trend.growth_per_s() == 0
    trend.note(3, 3, 10)
    assert trend.growth_per_s() == pytest.approx(1)


def test_what_is_long_ago_is_no_trend() -> None:
    trend = Trend()
    for now_s in range(100):
        trend.note(now_s, min(now_s, 50), 10)
        trend.check_invariants()
    assert trend.growth_per_s() == pytest.approx(0)


loads = st.lists(
    st.builds(
        EngineSignals,
        num_sequences=st.floats(0, 200),
        asked_tokens_per_s=st.floats(0, 1e4),
        waiting_tokens=st.floats(0, 1e6),
        kv_usage=st.floats(0, 1),
        prefill_tokens_per_s=st.sampled_from([0.0, 500.0, 2000.0]),
        tpot_s=st.floats(0, 1),
    ),
    max_size=4,
)


@given(loads, st.floats(0, 500), st.integers(0, 8))
def test_what_is_wanted_does_the_work_and_no_more(
    replicas: list[EngineSignals], num_held: float, num_replicas: int
) -> None:
    here = fleet(replicas, num_replicas, num_held)
    found = demand(here, SEQS, TARGETS)
    wanted = EngineScaler(SEQS, TARGETS).wanted(0, here)
    is_idle = num_held == 0 and not any(each.num_sequences for each in replicas)
    assert (wanted == 0) == is_idle
    assert is_idle or wanted >= found - 1e-6
    enough = math.ceil(found)
    assert wanted <= max(enough, min(num_replicas, math.ceil(found / KEEP_SHARE)), 1)


@given(loads, st.floats(0, 500), st.integers(1, 8))
def test_more_of_anything_never_wants_fewer(
    replicas: list[EngineSignals], num_held: float, num_replicas: int
) -> None:
    def wanted(held: float) -> int:
        return EngineScaler(SEQS, TARGETS).wanted(0, fleet(replicas, num_replicas, held))

    assert wanted(num_held + 10) >= wanted(num_held)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=80))
def test_a_steady_load_settles(history: list[float]) -> None:
    """Whatever has been before: the number that a load leads to is kept at that load."""
    scaler = EngineScaler(SEQS, AHEAD)
    num_replicas = 1
    for now_s, load in enumerate([*history, *[history[-1]] * 90]):
        share = load / max(1, num_replicas)
        replicas = [signals(share)] * num_replicas
        held = load if num_replicas == 0 else 0.0
        here = fleet(replicas, num_replicas, held)
        before, num_replicas = num_replicas, scaler.wanted(now_s, here)
        scaler.check_invariants()
    assert num_replicas == before

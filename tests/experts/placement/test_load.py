"""The load window: reports in any order, lost ones, hosts that begin anew."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.load import HostCounters, Load, LoadWindow
from experts.types import HostId


def counters(tokens: int, activations: int = 0, host: str = "a") -> HostCounters:
    return HostCounters(HostId(host), np.array([[tokens]]), np.array([[activations]]))


def tokens_per_s(window: LoadWindow, now_s: float) -> float:
    window.check_invariants()
    found = window.load(now_s)
    found.check_invariants()
    return float(found.tokens_per_s[0, 0])


def window_of(window_s: float = 10.0) -> LoadWindow:
    return LoadWindow(1, 1, window_s, now_s=0.0)


def test_the_worked_example_of_the_module() -> None:
    window = window_of()
    window.report(counters(0), 0.0)
    window.report(counters(50), 10.0)
    assert tokens_per_s(window, 10.0) == pytest.approx(7.9, abs=0.05)
    assert tokens_per_s(window, 20.0) == pytest.approx(2.1, abs=0.05)


def test_nothing_reported_is_no_load() -> None:
    window = window_of()
    assert window.load(0.0).is_idle
    assert window.load(5.0).is_idle
    assert not Load.even(1, 1).is_idle


def test_tokens_and_activations_are_counted_apart() -> None:
    window = window_of()
    window.report(counters(0, 0), 0.0)
    window.report(counters(40, 10), 1.0)
    found = window.load(1.0)
    assert found.tokens_per_s[0, 0] == pytest.approx(4 * found.activations_per_s[0, 0])


def test_what_a_host_counted_before_its_first_report_is_left_out() -> None:
    window = window_of()
    window.report(counters(1_000_000), 5.0)
    assert tokens_per_s(window, 5.0) == 0
    window.report(counters(1_000_007), 6.0)
    assert tokens_per_s(window, 6.0) == pytest.approx(7 / (10 * -math.expm1(-0.6)))


def test_a_host_that_begins_anew_takes_nothing_away() -> None:
    window = window_of()
    window.report(counters(0, host="a"), 0.0)
    window.report(counters(50, host="a"), 1.0)
    before = tokens_per_s(window, 1.0)
    window.forget(HostId("a"))
    window.report(counters(0, host="b"), 1.0)
    assert tokens_per_s(window, 1.0) == before
    window.report(counters(50, host="b"), 1.0)
    assert tokens_per_s(window, 1.0) == pytest.approx(2 * before)


def test_an_older_report_has_no_effect() -> None:
    window = window_of()
    for tokens in (0, 50, 20):
        window.report(counters(tokens), 1.0)
    assert tokens_per_s(window, 1.0) == pytest.approx(50 / (10 * -math.expm1(-0.1)))
    window.report(counters(50), 1.0)
    assert tokens_per_s(window, 1.0) == pytest.approx(50 / (10 * -math.expm1(-0.1)))


def test_an_even_load_is_found_as_it_is() -> None:
    window = window_of(window_s=1.0)
    for step in range(101):
        window.report(counters(30 * step), step / 10)
    assert tokens_per_s(window, 10.0) == pytest.approx(300, rel=0.06)


@given(
    deltas=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    is_lost=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_lost_reports_are_made_good_by_the_next(deltas: list[int], is_lost: list[bool]) -> None:
    # With a window this long it does not matter when tokens are told.
    all_heard, some_lost = window_of(1e9), window_of(1e9)
    total = 0
    for window in (all_heard, some_lost):
        window.report(counters(0), 0.0)
    for number, delta in enumerate(deltas):
        total += delta
        all_heard.report(counters(total), float(number))
        if not is_lost[number]:
            some_lost.report(counters(total), float(number))
    some_lost.report(counters(total), 10.0)
    found = tokens_per_s(some_lost, 10.0)
    assert found == pytest.approx(tokens_per_s(all_heard, 10.0))
    assert found == pytest.approx(total / 10)

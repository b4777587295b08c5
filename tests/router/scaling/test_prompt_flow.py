"""What is asked of an engine, and what it computes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scaling.prompt_flow import PromptFlow


def test_what_was_computed_over_the_time_that_some_waited() -> None:
    flow = PromptFlow()
    assert flow.tokens_per_s == 0
    flow.note(10.0, 1000)
    flow.note(10.5, 500)
    flow.note(11.0, 0)
    flow.note(50.0, 300)  # nothing waited until now
    assert flow.tokens_per_s == pytest.approx(1000, rel=0.02)


def test_what_was_given_up_was_not_computed() -> None:
    flow = PromptFlow()
    flow.note(0.0, 1000)
    flow.note(1.0, 400, num_dropped=600)
    flow.note(2.0, 0)
    assert flow.tokens_per_s == pytest.approx(200, rel=0.02)


def test_it_follows_a_machine_that_has_become_slower() -> None:
    flow = PromptFlow()
    for number in range(400):
        per_s = 2000 if number < 200 else 500
        flow.note(2.0 * number, per_s)
        flow.note(2.0 * number + 1, 0)
    assert flow.tokens_per_s == pytest.approx(500, rel=0.15)


def test_what_is_asked_a_second() -> None:
    flow = PromptFlow()
    for number in range(600):
        flow.ask(0.25 * number, 100)
    assert flow.asked_per_s(150.0) == pytest.approx(400, rel=0.02)
    assert flow.asked_per_s(180.0) == pytest.approx(400 / 2.718, rel=0.02)
    assert flow.asked_per_s(900.0) == pytest.approx(0, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5000), st.integers(0, 100))))
def test_nothing_becomes_negative(steps: list[tuple[float, int, int]]) -> None:
    flow, now_s = PromptFlow(), 0.0
    for passed_s, queued, num_dropped in steps:
        now_s += passed_s
        flow.ask(now_s, queued)
        flow.note(now_s, queued, num_dropped)
        flow.check_invariants()
        assert flow.tokens_per_s >= 0

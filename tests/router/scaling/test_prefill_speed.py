import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scaling.prefill_speed import PrefillSpeed


def test_what_was_computed_over_the_time_that_some_waited() -> None:
    speed = PrefillSpeed()
    assert speed.tokens_per_s == 0
    speed.note(10.0, 1000)
    speed.note(10.5, 500)
    speed.note(11.0, 0)
    speed.note(50.0, 300)  # nothing waited until now
    assert speed.tokens_per_s == pytest.approx(1000, rel=0.02)


def test_what_was_given_up_was_not_computed() -> None:
    speed = PrefillSpeed()
    speed.note(0.0, 1000)
    speed.note(1.0, 400, num_dropped=600)
    speed.note(2.0, 0)
    assert speed.tokens_per_s == pytest.approx(200, rel=0.02)


def test_it_follows_a_machine_that_has_become_slower() -> None:
    speed = PrefillSpeed()
    for number in range(400):
        per_s = 2000 if number < 200 else 500
        speed.note(2.0 * number, per_s)
        speed.note(2.0 * number + 1, 0)
    assert speed.tokens_per_s == pytest.approx(500, rel=0.15)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5000), st.integers(0, 100))))
def test_nothing_becomes_negative(steps: list[tuple[float, int, int]]) -> None:
    speed, now_s = PrefillSpeed(), 0.0
    for passed_s, queued, num_dropped in steps:
        now_s += passed_s
        speed.note(now_s, queued, num_dropped)
        speed.check_invariants()
        assert speed.tokens_per_s >= 0

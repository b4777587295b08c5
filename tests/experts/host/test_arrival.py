"""When a frame came."""

from hypothesis import given
from hypothesis import strategies as st

from experts.host.arrival import ArrivalClock


def test_what_is_found_at_once_came_between_two_looks() -> None:
    clock = ArrivalClock(1.0)
    assert clock.arrived_s(1.0, 1.0) == 1.0
    assert clock.arrived_s(1.01, 1.01) == 1.005
    assert clock.arrived_s(1.01, 1.5) == 1.5
    assert clock.arrived_s(1.7, 1.7) == 1.6


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_nothing_comes_before_the_last_look_or_after_this_one(
    times: list[tuple[float, float]],
) -> None:
    clock, now_s = ArrivalClock(0.0), 0.0
    for computing_s, looking_s in times:
        last_s, began_s = now_s, now_s + computing_s
        now_s = began_s + looking_s
        assert last_s <= clock.arrived_s(began_s, now_s) <= now_s
        clock.check_invariants()

"""The limit finds the width of a server that it cannot see."""

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.batch.concurrency import Concurrency


def drive(control: Concurrency, width: int, num_requests: int, room: int = 10**9) -> int:
    """The limit after so many requests to a server that works on `width` at a time, each
    for about a second, holds others back, and refuses what is more than `room`."""
    chance = random.Random(1)
    now_s, sent, ends = 0.0, 0, list[tuple[float, float]]()
    lanes = [0.0] * width
    while sent < num_requests:
        while len(ends) < control.limit and sent < num_requests:
            if len(ends) >= room:
                control.on_refused(now_s, now_s)
                now_s += 0.01
                break
            began_s = max(now_s, heapq.heappop(lanes))
            end_s = began_s + chance.uniform(0.5, 1.5)
            heapq.heappush(lanes, end_s)
            heapq.heappush(ends, (end_s, now_s))
            sent += 1
        now_s, _ = heapq.heappop(ends)
        control.on_finished(now_s, 100)
        control.check_invariants()
    return control.limit


@pytest.mark.parametrize("width", [1, 3, 8, 30, 64])
def test_the_limit_comes_near_what_the_server_works_on_at_a_time(width: int) -> None:
    limit = drive(Concurrency(1000), width, num_requests=3000)
    assert 0.7 * width <= limit <= max(2 * width, 8)


def test_the_limit_grows_to_its_ceiling_on_a_server_that_bears_it() -> None:
    assert drive(Concurrency(50), 1000, num_requests=2000) == 50


def test_a_server_that_refuses_keeps_the_limit_near_its_room() -> None:
    limit = drive(Concurrency(1000), 1000, num_requests=4000, room=20)
    assert 8 <= limit <= 21


def test_refusals_of_what_was_sent_together_cut_once() -> None:
    control = Concurrency(1000)
    control.on_refused(sent_s=1.0, now_s=2.0)
    control.on_refused(sent_s=1.5, now_s=2.5)
    assert control.limit == 2
    control.on_refused(sent_s=2.1, now_s=3.0)
    control.on_refused(sent_s=3.1, now_s=4.0)
    assert control.limit == 1


_events = st.lists(
    st.tuples(st.booleans(), st.floats(0, 2), st.integers(0, 3)), min_size=1, max_size=300
)


@given(max_limit=st.integers(1, 20), events=_events)
def test_no_course_of_events_leads_out_of_bounds(
    max_limit: int, events: list[tuple[bool, float, int]]
) -> None:
    control, now_s = Concurrency(max_limit), 0.0
    for is_refused, passed_s, work in events:
        sent_s, now_s = now_s, now_s + passed_s
        if is_refused:
            control.on_refused(sent_s, now_s)
        else:
            control.on_finished(now_s, work)
        control.check_invariants()
        assert 1 <= control.limit <= max_limit

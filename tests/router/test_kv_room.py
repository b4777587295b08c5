"""Requests that wait for room in the KV caches; see `router.admission`."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.router.test_admission import MODEL, desk


@dataclass
class Room:
    """A fleet's KV caches, in tokens."""

    free_tokens: int

    def for_(self, num_tokens: int) -> Any:
        """What a demand of so many tokens asks."""
        return lambda: num_tokens <= self.free_tokens


def test_a_request_that_no_kv_cache_can_hold_waits_until_one_can() -> None:
    d, room = desk(8), Room(100)
    assert d.ask("1", has_room=room.for_(50))
    assert not d.ask("2", has_room=room.for_(200))
    assert d.admission.look_again(MODEL, d.now_s) == []
    room.free_tokens = 200
    assert d.note(d.admission.look_again(MODEL, d.now_s)) == ["2"]


def test_for_want_of_room_too_the_first_in_line_is_not_passed_by() -> None:
    d, room = desk(8), Room(100)
    d.ask("1", has_room=room.for_(50))
    assert [d.ask(n, has_room=room.for_(t)) for n, t in (("2", 200), ("3", 10))] == [False] * 2
    room.free_tokens = 200
    assert d.note(d.admission.look_again(MODEL, d.now_s)) == ["2", "3"]


def test_the_only_request_of_a_gateway_never_waits_for_room() -> None:
    d, room = desk(8), Room(0)
    assert d.ask("1", has_room=room.for_(50))
    assert not d.ask("2", has_room=room.for_(50))
    assert d.end("1") == ["2"]


def test_an_operator_may_send_requests_whatever_the_room() -> None:
    d, room = desk(8, hold_for_kv_room=False), Room(0)
    assert [d.ask(n, has_room=room.for_(50)) for n in "12"] == [True, True]


@given(
    st.lists(st.tuples(st.sampled_from("aer"), st.integers(0, 6)), max_size=40),
    st.integers(1, 3),
)
def test_whatever_the_room_all_begin_in_turn_and_none_is_left_behind(
    steps: list[tuple[str, int]], places: int
) -> None:
    """a: asks, e: one ends, r: the room changes."""
    d, room = desk(places), Room(3)
    asked: list[str] = []
    for action, number in steps:
        if action == "a":
            asked.append(f"{len(asked):03}")
            d.ask(asked[-1], has_room=room.for_(number))
        elif action == "r":
            room.free_tokens = number
            d.note(d.admission.look_again(MODEL, d.now_s))
        elif d.name_to_ticket:
            running = [n for n, t in d.name_to_ticket.items() if t.is_admitted]
            d.end(running[number % len(running)])
        assert any(t.is_admitted for t in d.name_to_ticket.values()) == bool(d.name_to_ticket)
    room.free_tokens = 0
    while d.name_to_ticket:
        d.end(next(n for n, t in d.name_to_ticket.items() if t.is_admitted))
    assert d.admitted == asked

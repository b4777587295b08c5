"""When the director waits, when it orders, and what it says of itself."""

from dataclasses import replace

import numpy as np
import pytest

from experts.director.director import Director
from experts.director.types import DirectorSettings, HostOrder
from experts.settings import RebalanceSection
from experts.transport.control import Ordered, Outcome
from experts.types import EMPTY_SLOT, HostId
from infra.errors import ConfigError
from tests.experts.director.fleet import FakeHost, Fleet, new_host

SETTINGS = DirectorSettings(RebalanceSection(min_interval_s=60.0), num_hosts=2)


def fleet(*sizes: int, num_experts: int = 3, settings: DirectorSettings = SETTINGS) -> Fleet:
    """Hosts a, b, ... of one layer that have all reported."""
    made = Fleet(Director(1, num_experts, settings, 0.0))
    made.join(*(new_host("abcd"[i], size, 1, num_experts) for i, size in enumerate(sizes)))
    for host in made.living:
        made.deliver(host)
    return made


def host(made: Fleet, name: str) -> FakeHost:
    return made.hosts[HostId(name)]


def kill(made: Fleet, name: str) -> None:
    host(made, name).is_dead = True
    made.deliver(host(made, name))


def moves(orders: list[HostOrder]) -> dict[str, list[list[int]]]:
    return {each.host: each.order.moves.tolist() for each in orders}


def test_the_first_plan_fills_all_hosts_at_once_and_with_their_own_slot_numbers() -> None:
    made = fleet(2, 1)
    orders = moves(list(made.director.orders(0.0)))
    assert sorted(orders) == ["a", "b"]
    assert [slot for _, slot, _ in orders["b"]] == [0]
    assert sorted(expert for each in orders.values() for _, _, expert in each) == [0, 1, 2]


def test_the_first_plan_waits_for_its_hosts_but_not_for_ever() -> None:
    made = fleet(3)
    assert made.director.orders(29.0) == []
    waiting = made.director.view(29.0)
    assert (waiting.state, waiting.message) == ("waiting", "1 of 2 expert hosts are there")
    assert len(made.director.orders(30.0)) == 1


def test_the_first_plan_waits_for_hosts_that_are_being_dialled() -> None:
    made = fleet(2, 2)
    made.director.expect([HostId("a"), HostId("b"), HostId("c")])
    assert made.director.orders(1.0) == []
    assert made.director.view(1.0).message == "2 of 3 expert hosts are there"
    made.director.expect([HostId("a"), HostId("b")])
    assert len(made.director.orders(1.0)) == 2


def test_too_little_room_is_said_with_what_would_help() -> None:
    made = fleet(1, 1)
    assert made.director.orders(0.0) == []
    view = made.director.view(0.0)
    assert (view.state, view.message) == (
        "short",
        "2 expert hosts have room for 2 experts a layer; each of 3 needs 3: give them at "
        "least 2 slots a layer each, or start at least 3 hosts of 1 slots",
    )
    made.join(new_host("c", 1, 1, 3))
    made.settle()
    assert made.director.view(0.0).map.is_covering
    assert made.director.view(0.0).state == "settled"


def test_nothing_is_decided_by_a_table_that_is_older_than_its_hosts_order() -> None:
    made = fleet(2, 2)
    made.post(made.director.orders(0.0))
    for each in made.living:
        each.begin()
        each.finish()
        made.deliver(each)
    kill(made, "b")
    assert made.director.orders(0.0) == []
    made.join(new_host("c", 2, 1, 3))
    made.settle()
    assert made.director.orders(0.0) == []
    host(made, "a").send_report()
    made.settle()
    assert made.director.view(0.0).map.is_covering


def test_the_next_wave_waits_until_all_hosts_have_ended_this_one() -> None:
    made = fleet(2, 2, settings=replace(SETTINGS, rebalance=RebalanceSection()))
    made.settle()
    a, b = host(made, "a"), host(made, "b")
    a.is_leaving = True
    c = new_host("c", 3, 1, 3)
    made.join(c)
    made.now_s = 1.0
    a.send_report()
    made.hear(c)
    made.hear(a)
    first = made.director.orders(1.0)
    made.post(first)
    for number, each in enumerate(made.hosts[order.host] for order in first):
        assert made.director.orders(1.0) == []
        assert made.director.view(1.0).state == "moving", number
        each.begin()
        each.finish()
        each.send_report()
        made.hear(each)
    second = made.director.orders(1.0)
    assert set(moves(list(second))) <= {"a", "b", "c"}
    assert "a" in moves(list(second))
    made.post(second)
    made.settle()
    assert a.held.tolist() == [[EMPTY_SLOT, EMPTY_SLOT]]
    assert made.covered == {(0, 0), (0, 1), (0, 2)}
    assert b.held.shape == (1, 2)


def test_a_move_that_fails_is_tried_again_after_a_while_that_grows() -> None:
    made = fleet(2, 2, num_experts=4, settings=replace(SETTINGS, max_retry_s=2.0))
    tries = []
    for second in range(9):
        made.now_s = float(second)
        for each in made.living:
            each.send_report()
            made.hear(each)
        made.post(made.director.orders(made.now_s))
        for each in made.living:
            if each.inbox:
                tries.append((second, each.host))
                each.begin()
                each.finish(failing=range(9) if each.host == "b" else ())
                made.hear(each)
    assert [second for second, name in tries if name == "b"] == [0, 1, 3, 5, 7]
    view = made.director.view(8.0)
    assert view.state == "failing"
    assert "b could not do" in view.message


def test_an_order_that_never_ends_is_given_up_and_its_late_end_means_nothing() -> None:
    made = fleet(3, 3, settings=replace(SETTINGS, order_timeout_s=10.0))
    [first, *_] = made.director.orders(0.0)
    assert made.director.orders(9.0) == []
    assert made.director.view(9.0).state == "moving"
    assert made.director.orders(10.0) == []
    assert made.director.view(10.0).message == "no answer from a, b within 10 s"
    made.director.ended(first.host, Ordered(first.order.number, (Outcome.DONE,)), 10.5)
    made.now_s = 10.5
    for each in made.living:
        each.send_report()
        made.deliver(each)
    assert made.director.orders(10.9) == []
    assert len(made.director.orders(11.0)) == 2


def test_what_has_been_done_is_told_of() -> None:
    made = fleet(2, 2)
    made.settle()
    last = made.director.view(1.0).last
    assert last is not None
    assert (last.reason, last.num_moves, last.num_waves) == ("uncovered", 4, 1)
    assert (last.begun_s, last.ended_s, last.num_waves_done, last.trouble) == (0.0, 0.0, 1, "")


def test_load_that_grows_uneven_is_evened_out_but_not_before_its_time() -> None:
    made = fleet(2, 2, num_experts=3)
    made.settle()
    together = sorted(made.living, key=lambda each: len(each.copies))
    busy = together[-1]
    twice = [copy for copy in busy.copies if all(copy in h.copies for h in made.living)]
    alone = [copy for copy in busy.copies if copy not in twice]
    for second in range(58):
        made.now_s = 1.0 + second
        for copy in alone:
            busy.counts[copy] += 100
        for each in made.living:
            each.send_report()
        made.settle()
        last = made.director.view(made.now_s).last
        assert last is not None
        assert last.reason == "uncovered"
    made.run(20)
    last = made.director.view(made.now_s).last
    assert last is not None
    assert last.reason == "imbalance"
    assert made.covered == {(0, 0), (0, 1), (0, 2)}


def test_a_host_of_another_model_is_refused() -> None:
    made = fleet(2, 2)
    with pytest.raises(ConfigError, match="another model"):
        made.director.reported(new_host("x", 2, 2, 3).report(), 0.0)
    with pytest.raises(ConfigError, match="another model"):
        made.director.reported(new_host("x", 2, 1, 4).report(), 0.0)
    assert made.director.view(0.0).map.hosts == ("a", "b")


def test_a_new_director_takes_up_what_another_has_left() -> None:
    before = fleet(2, 2)
    before.settle()
    after = Fleet(Director(1, 3, SETTINGS, 50.0), 50.0)
    after.hosts = before.hosts
    after.run(1)
    assert after.director.orders(51.0) == []
    assert np.array_equal(
        after.director.view(51.0).map.physical_to_logical,
        before.director.view(1.0).map.physical_to_logical,
    )

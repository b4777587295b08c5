"""Waves from map to map: every one legal, every expert there all the time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from numpy.typing import NDArray

from experts.placement.hosts import HostSpec
from experts.placement.layout import empty_map, experts_by_host, with_hosts
from experts.placement.migration import Move, Wave, migrate
from experts.placement.plan import plan
from experts.settings import RebalanceSection
from experts.types import EMPTY_SLOT, ExpertMap, HostId
from tests.experts.placement.builders import expert_map, host, hosts, loads, maps


def evenly(found: ExpertMap) -> NDArray[np.float64]:
    return np.ones((found.num_layers, found.num_experts))


def waves_between(
    current: ExpertMap, target: ExpertMap, max_moves_per_host: int = 8
) -> tuple[Wave, ...]:
    return migrate(current, target, evenly(current), max_moves_per_host)


def check_waves(current: ExpertMap, waves: tuple[Wave, ...], max_moves: int) -> ExpertMap:
    """Each wave is legal from where the one before it ended; where they end."""
    now = current
    for wave in waves:
        assert wave.moves
        assert (wave.during.version, wave.after.version) == (now.version + 1, now.version + 2)
        held = now.physical_to_logical.copy()
        for move in wave.moves:
            assert now.hosts[now.slot_to_host[move.slot]] == move.host
            assert held[move.layer, move.slot] != move.expert
            held[move.layer, move.slot] = EMPTY_SLOT
        assert (wave.during.physical_to_logical == held).all()
        for move in wave.moves:
            assert held[move.layer, move.slot] == EMPTY_SLOT, "two moves into one slot"
            held[move.layer, move.slot] = move.expert
        assert (wave.after.physical_to_logical == held).all()
        for name in now.hosts:
            filled = [m for m in wave.moves if m.host == name and m.expert != EMPTY_SLOT]
            assert len(filled) <= max_moves
        for state in (wave.during, wave.after):
            state.check_invariants()
            assert ((state.num_copies > 0) >= (now.num_copies > 0)).all()
        now = wave.after
    return now


def is_reached(found: ExpertMap, target: ExpertMap) -> bool:
    return all(
        experts_by_host(found, layer) == experts_by_host(target, layer)
        for layer in range(target.num_layers)
    )


def num_fills(waves: tuple[Wave, ...]) -> int:
    return sum(move.expert != EMPTY_SLOT for wave in waves for move in wave.moves)


def test_the_worked_example_of_the_module() -> None:
    specs = hosts(2, 2)
    current, target = expert_map(specs, [0, 2, 1, 2]), expert_map(specs, [1, 2, 0, 2])
    waves = waves_between(current, target)
    a, b = HostId("a"), HostId("b")
    assert [wave.moves for wave in waves] == [
        (Move(b, 0, 3, 0),),
        (Move(a, 0, 0, 1),),
        (Move(b, 0, 2, 2),),
    ]
    assert is_reached(check_waves(current, waves, 8), target)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0, 1, EMPTY_SLOT, 2], [1, 0, EMPTY_SLOT, 2], 3),
        ([EMPTY_SLOT, 2, 0, 1], [EMPTY_SLOT, 2, 1, 0], 3),
        ([2, 0, 1, 2], [2, 1, 0, 2], 4),
    ],
)
@pytest.mark.parametrize("max_moves_per_host", [1, 8])
def test_a_slot_that_serves_for_a_while_is_put_right_at_the_end(
    before: list[int], after: list[int], expected: int, max_moves_per_host: int
) -> None:
    specs = hosts(1, 1, 1, 1)
    current, target = expert_map(specs, before), expert_map(specs, after)
    waves = waves_between(current, target, max_moves_per_host)
    assert is_reached(check_waves(current, waves, 8), target)
    assert num_fills(waves) == expected


def test_without_a_slot_to_spare_everything_stays() -> None:
    specs = hosts(1, 1)
    current = expert_map(specs, [0, 1], [0, 1])
    assert waves_between(current, expert_map(specs, [1, 0], [1, 0])) == ()


def test_a_layer_that_cannot_move_holds_up_no_other() -> None:
    specs = hosts(2, 2)
    current = expert_map(specs, [0, 1, 2, 3], [0, 1, 2, 2])
    target = expert_map(specs, [2, 1, 0, 3], [0, 1, 2, 3])
    (wave,) = waves_between(current, target)
    assert wave.moves == (Move(HostId("b"), 1, 3, 3),)


def test_what_is_lost_comes_first_and_alone_the_heaviest_first() -> None:
    specs = hosts(4, 3)
    current = expert_map(specs, [0, 0, 1, EMPTY_SLOT, 0, EMPTY_SLOT, EMPTY_SLOT])
    current = replace(current, num_experts=5)
    target = expert_map(specs, [0, 2, 1, 4, 1, 3, 0])
    weights = np.array([[9.0, 9, 1, 2, 3]])
    waves = migrate(current, target, weights, max_moves_per_host=8)
    assert [move.expert for move in waves[0].moves] == [4, 3, 2]
    assert is_reached(check_waves(current, waves, 8), target)
    waves = migrate(current, target, weights, max_moves_per_host=1)
    assert [move.expert for move in waves[0].moves] == [4, 3]
    assert is_reached(check_waves(current, waves, 1), target)


def test_only_moved_copies_are_evicted_from_a_leaving_host() -> None:
    specs = hosts(2, 2)
    current = expert_map(specs, [0, EMPTY_SLOT, 0, 1])
    target = expert_map(specs, [0, 1, EMPTY_SLOT, EMPTY_SLOT])
    waves = waves_between(current, target)
    assert is_reached(check_waves(current, waves, 8), target)
    assert num_fills(waves) == 1


@pytest.mark.parametrize("num_experts", [4, 9])
def test_a_turn_of_all_experts_takes_one_move_more_than_it_has_experts(
    num_experts: int,
) -> None:
    specs = hosts(*[1] * num_experts, 1)
    ring = list(range(num_experts))
    current = expert_map(specs, [*ring, 0])
    target = expert_map(specs, [*ring[1:], 0, 0])
    waves = waves_between(current, target)
    assert is_reached(check_waves(current, waves, 8), target)
    assert num_fills(waves) <= num_experts + 2


SIZES = st.lists(st.integers(1, 3), min_size=3, max_size=3)


@st.composite
def covering_maps(draw: st.DrawFn, specs: list[HostSpec]) -> ExpertMap:
    """Two layers of three experts, each with a copy somewhere."""
    num_more = sum(spec.num_slots for spec in specs) - 3
    more = st.lists(st.integers(EMPTY_SLOT, 2), min_size=num_more, max_size=num_more)
    rows = [draw(st.permutations([0, 1, 2, *draw(more)])) for _ in range(2)]
    return expert_map(specs, *rows)


@given(data=st.data(), sizes=SIZES, max_moves=st.sampled_from([1, 2, 8]))
def test_any_covering_map_is_reached_if_there_is_a_slot_to_spare(
    data: st.DataObject, sizes: list[int], max_moves: int
) -> None:
    specs = hosts(*sizes)
    current = data.draw(st.one_of(covering_maps(specs), maps(specs, 2, 3)))
    target = data.draw(covering_maps(specs))
    waves = migrate(current, target, evenly(current), max_moves)
    end = check_waves(current, waves, max_moves)
    assert end.is_covering
    if current.num_slots > 3:
        assert is_reached(end, target)
    assert num_fills(waves) <= 2 * target.num_slots + 3 * target.num_layers


@st.composite
def fleets(draw: st.DrawFn) -> list[HostSpec]:
    """Two hosts or three of them; one of three may be leaving."""
    names = draw(st.lists(st.sampled_from("abcde"), min_size=2, max_size=3, unique=True))
    is_leaving = len(names) == 3 and draw(st.booleans())
    return [host(name, 3, is_leaving=is_leaving and name == names[0]) for name in sorted(names)]


@runs(max_examples=40)
@given(
    data=st.data(),
    fleet=st.lists(fleets(), min_size=2, max_size=4),
    settings=st.builds(
        RebalanceSection,
        min_copies=st.integers(1, 2),
        algorithm=st.sampled_from(["cost", "eplb"]),
    ),
)
def test_plans_are_carried_out_through_joins_leaves_and_deaths(
    data: st.DataObject, fleet: list[list[HostSpec]], settings: RebalanceSection
) -> None:
    current = empty_map(2, 4, fleet[0])
    for specs in fleet:
        start = with_hosts(current, specs)
        target = plan(data.draw(loads(2, 4)), specs, start, settings)
        waves = waves_between(start, target, max_moves_per_host=2)
        current = check_waves(start, waves, 2)
        assert current.is_covering
        assert is_reached(current, target)

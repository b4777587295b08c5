"""What is moved pays; the same question has the same answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from experts.placement.cost import copy_costs
from experts.placement.layer_state import Ints, LayerState
from experts.placement.load import Load
from experts.placement.refine import refine
from experts.placement.search import improve
from experts.types import EMPTY_SLOT
from tests.experts.placement.builders import hosts, load, loads


def state_of(row: list[int], sizes: list[int], found: Load, min_copies: int = 1) -> LayerState:
    return LayerState(
        held=np.array(row, np.int64),
        slot_to_host=np.repeat(np.arange(len(sizes)), sizes),
        cost=copy_costs(found, 0, hosts(*sizes)),
        min_copies=min_copies,
    )


def slowest_over_mean(state: LayerState, row: Ints) -> float:
    return float(state.times(row).max() / state.times(state.held).mean())


@pytest.mark.parametrize(
    ("move_price", "num_moves", "ratio"), [(0.0, 1, 1.0), (0.39, 1, 1.0), (0.41, 0, 1.4)]
)
def test_a_move_is_made_at_its_price_and_not_above(
    move_price: float, num_moves: int, ratio: float
) -> None:
    # A second copy of expert 0 in the empty slot takes 2 of 7 to where there are 3.
    state = state_of([0, 1, 2, 3, EMPTY_SLOT], [2, 3], load([4, 3, 2, 1]))
    found = refine(state, state.held, move_price)
    assert state.num_moves(state.held, found) == num_moves
    assert slowest_over_mean(state, found) == pytest.approx(ratio)


def test_a_layer_with_nothing_to_do_stays() -> None:
    state = state_of([0, 1, 2, 3], [2, 2], load([0, 0, 0, 0]))
    assert refine(state, state.held, 0.0).tolist() == [0, 1, 2, 3]


def test_where_single_steps_end_other_ways_are_tried() -> None:
    state = state_of([0, 1, 2, 3, 4, 0], [2, 2, 2], load([8, 8, 9, 4, 6]))
    assert state.times(state.held).tolist() == [12, 13, 10]
    assert len(improve(state.held, state.slot_to_host, state.cost, 1, 100).steps) == 0
    assert state.times(refine(state, state.held, 0.0)).max() == 12


@runs(max_examples=50)
@given(
    data=st.data(), move_price=st.sampled_from([0.0, 0.01, 0.2]), min_copies=st.integers(1, 2)
)
def test_what_is_found_is_worth_its_moves_and_legal(
    data: st.DataObject, move_price: float, min_copies: int
) -> None:
    sizes = data.draw(st.lists(st.integers(2, 3), min_size=2, max_size=3))
    row = []
    for size in sizes:
        row += data.draw(st.permutations(range(4)))[:size]
    state = state_of(row, sizes, data.draw(loads(1, 4)), min_copies)
    found = refine(state, state.held, move_price)
    assert found.tolist() == refine(state, state.held, move_price).tolist()
    assert state.held.tolist() == row
    kept = np.minimum(state.counts(state.held), min_copies)
    assert (state.counts(found) >= kept).all()
    for host in range(len(sizes)):
        mine = found[(state.slot_to_host == host) & (found != EMPTY_SLOT)]
        assert len(set(mine.tolist())) == len(mine)
    if state.times(state.held).any():
        fall = slowest_over_mean(state, state.held) - slowest_over_mean(state, found)
        assert fall >= move_price * state.num_moves(state.held, found) - 1e-9

"""A layer's row made as good as its moves pay for.

The worth of a row, the less the better, is

    slowest host's time / mean host time at the start + min_gain_per_move * copies moved

so more copies never move than the fall of slowest over mean, divided by the price.
`search` goes on as long as single steps help, and what of them pays is taken. Where that
ends far from even, a few slots are changed at random and the search goes on from there;
what is worth less is thrown away. Chance always begins alike: the same question has the
same answer.

Worked example: a layer at 1.30; three steps of one slot each lead to 1.20, 1.10, 1.0995. At
0.002 a move the worths are 1.30, 1.202, 1.104 and 1.1055: two steps are taken.
"""

import numpy as np

from experts.placement.layer_state import Ints, LayerState
from experts.placement.search import improve
from experts.types import EMPTY_SLOT

_MAX_STEPS_PER_SLOT = 4
"""Far more than a search takes; a bound all the same."""
_EVEN = 1.01
"""Slowest over mean that is not worth another try."""
_TRIED_SLOTS, _MIN_TRIES, _MAX_TRIES = 2048, 4, 64
"""Tries are dear in large layers, and of use in small ones."""
_NUM_KICKS = 3
"""Changes at random in each try: enough that the search does not just take them back."""


def refine(state: LayerState, start: Ints, move_price: float) -> Ints:
    """The row of least worth that was found from `start` on."""
    mean = float(state.times(start).mean())
    if mean == 0:
        return start
    rng = np.random.default_rng(0)
    best = _searched(state, start, mean, move_price)
    least = _worth(state, start, best, mean, move_price)
    for _ in range(min(_MAX_TRIES, max(_MIN_TRIES, _TRIED_SLOTS // len(start)))):
        if state.times(best).max() <= _EVEN * mean:
            break
        row = _searched(state, _kicked(state, best, rng), mean, move_price)
        worth = _worth(state, start, row, mean, move_price)
        if worth < least:
            best, least = row, worth
    return best


def _worth(state: LayerState, start: Ints, row: Ints, mean: float, move_price: float) -> float:
    return float(state.times(row).max()) / mean + move_price * state.num_moves(start, row)


def _searched(state: LayerState, row: Ints, mean: float, move_price: float) -> Ints:
    max_steps = _MAX_STEPS_PER_SLOT * len(row)
    trail = improve(row, state.slot_to_host, state.cost, state.min_copies, max_steps)
    found = row.copy()
    trail.replay(found, int(np.argmin(trail.slowest / mean + move_price * trail.num_filled)))
    return found


def _kicked(state: LayerState, row: Ints, rng: np.random.Generator) -> Ints:
    row = row.copy()
    for _ in range(_NUM_KICKS):
        _put(state, row, int(rng.integers(len(row))), int(rng.integers(len(state.cost))))
    return row


def _put(state: LayerState, row: Ints, slot: int, expert: int) -> None:
    """Give the slot the expert, by a swap where the slot's own must be kept. Nothing
    happens where that is not legal."""
    host, old = state.slot_to_host[slot], row[slot]
    if (row[state.slot_to_host == host] == expert).any():
        return
    if old == EMPTY_SLOT or state.counts(row)[old] > state.min_copies:
        row[slot] = expert
        return
    hosts_of_old = state.slot_to_host[row == old]
    others = np.flatnonzero((row == expert) & ~np.isin(state.slot_to_host, hosts_of_old))
    if len(others):
        row[slot], row[others[0]] = expert, old

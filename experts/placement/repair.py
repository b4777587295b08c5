"""Copies for the experts of a layer that have too few, where the least is in the way."""

import numpy as np
from numpy.typing import NDArray

from experts.types import EMPTY_SLOT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def cover(held: Ints, slot_to_host: Ints, cost: Floats, min_copies: int) -> bool:
    """Fill slots until each expert has `min_copies` on different hosts; what no host has
    comes first, and of that what costs the most.

    `held`: expert or EMPTY_SLOT, [num_slots], no expert twice on one host; `cost`: the
    layer's `copy_costs`. False where more would have to be moved than single copies; a
    first copy of each expert never needs that where there are slots for all.
    """
    counts = np.bincount(held[held != EMPTY_SLOT], minlength=len(cost))
    heaviest_first = np.argsort(-cost[:, 1].mean(axis=1), kind="stable")
    for level in range(1, min_copies + 1):
        for expert in heaviest_first[counts[heaviest_first] < level]:
            slot = _slot_for(int(expert), level, held, slot_to_host, cost)
            if slot is None:
                return False
            held[slot] = expert
    return True


def _slot_for(
    expert: int, level: int, held: Ints, slot_to_host: Ints, cost: Floats
) -> int | None:
    """An empty slot, or one whose expert has more than `level` copies; of these the one
    whose host is the least busy afterwards."""
    is_empty = held == EMPTY_SLOT
    counts = np.bincount(held[~is_empty], minlength=len(cost))
    has_host = np.isin(slot_to_host, slot_to_host[held == expert])
    free = np.flatnonzero(~has_host & (is_empty | (counts[held] > level)))
    if not len(free):
        return None
    hosts, olds = slot_to_host[free], held[free]
    copy = np.where(is_empty, 0.0, cost[held, counts[held], slot_to_host])
    times = np.bincount(slot_to_host, copy, minlength=cost.shape[2])
    then = times[hosts] + cost[expert, counts[expert] + 1, hosts] - copy[free]
    return int(free[np.lexsort((then, olds != EMPTY_SLOT))[0]])

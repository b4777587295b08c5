"""A layer's placement made better step by step, from where things are.

A step changes one or two slots so that the slowest host gets faster, and no other host
gets as slow as it was:

- *refill*: a slot takes another expert: one that the slowest host has, elsewhere, or any
  other in place of one of its own. What was there keeps `min_copies` other copies.
- *swap*: an expert of the slowest host changes places with one of another host.
- *move*: an expert of the slowest host goes to an empty slot.

Of all such steps the one is taken that lowers the sum of the squared host times the most
for each slot that it fills: among steps that help the slowest host alike, the one
that leaves the least behind for later steps. It ends where no step helps. Each step
lowers the host times, sorted from the slowest on, in lexical order: it cannot go round.

Worked example: hosts a: 0, 1 and b: 2, 3; the experts cost 4, 3, 2, 1 with one copy. Times
7 and 3. To swap 0 and 2 gives 5 and 5. A slot more at b would have taken 0 or 1: a
second copy of 0 gives 5 and 5 with one change, and is taken.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from experts.types import EMPTY_SLOT
from infra.compiled import compiled, inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_NONE = (-1, -1, -1, -1)
_LESS = 1 - 1e-9
"""Times that differ by less are alike: sums of the same costs in another order."""


class Trail(NamedTuple):
    """What a search did, step by step."""

    steps: Ints  # [num_steps, 4]: slot, its new expert; another slot or -1, its new expert
    slowest: Floats  # [num_steps + 1]: time of the slowest host before and after each step

    @property
    def num_filled(self) -> Ints:
        """Slots given an expert up to each point of `slowest`. Shape: [num_steps + 1]."""
        return np.concatenate([[0], np.cumsum(1 + (self.steps[:, 3] != EMPTY_SLOT))])

    def replay(self, held: Ints, num_steps: int) -> None:
        """Take the first steps in a layer's slots."""
        for slot, expert, other_slot, other_expert in self.steps[:num_steps]:
            held[slot] = expert
            if other_slot >= 0:
                held[other_slot] = other_expert


def improve(
    held: Ints, slot_to_host: Ints, cost: Floats, min_copies: int, max_steps: int
) -> Trail:
    """Steps from `held` on, which is not changed. It has no expert twice on one host.

    `held`: expert or EMPTY_SLOT, [num_slots]; `cost`: the layer's `copy_costs`. An
    expert with fewer than `min_copies` loses none; `repair.cover` is for that.
    """
    steps = np.empty((max_steps, 4), np.int64)
    slowest = np.empty(max_steps + 1)
    count = _improve(held.copy(), slot_to_host, cost, min_copies, steps, slowest)
    return Trail(steps[:count], slowest[: count + 1])


@inlined
def _tally(
    held: Ints, slot_to_host: Ints, cost: Floats, has: Flags, counts: Ints, times: Floats
) -> None:
    has[:], counts[:], times[:] = False, 0, 0.0
    for slot in range(len(held)):
        if held[slot] != EMPTY_SLOT:
            has[slot_to_host[slot], held[slot]] = True
            counts[held[slot]] += 1
    for slot in range(len(held)):
        if held[slot] != EMPTY_SLOT:
            expert, host = held[slot], slot_to_host[slot]
            times[host] += cost[expert, counts[expert], host]


@inlined
def _refilled(
    cost: Floats, has: Flags, counts: Ints, times: Floats, host: int, old: int, new: int
) -> float:
    """Sum of the squared times with `new` in place of `old` at the host; infinite where
    the slowest host gains nothing, or another gets as slow."""
    slowest = np.argmax(times)
    limit, total = times[slowest] * _LESS, 0.0
    for h in range(len(times)):
        then = times[h]
        if h == host:
            then += cost[new, counts[new] + 1, h]
        elif has[h, new]:
            then += cost[new, counts[new] + 1, h] - cost[new, counts[new], h]
        if old != EMPTY_SLOT and has[h, old]:
            then -= cost[old, counts[old], h]
            if h != host:
                then += cost[old, counts[old] - 1, h]
        if then >= limit and (h == slowest or then > times[h]):
            return np.inf
        total += then * then
    return total


@inlined
def _best_refill(
    held: Ints,
    slot_to_host: Ints,
    cost: Floats,
    min_copies: int,
    has: Flags,
    counts: Ints,
    times: Floats,
) -> tuple[float, tuple[int, int, int, int]]:
    slowest = np.argmax(times)
    base, best, step = (times * times).sum(), 0.0, _NONE
    for slot in range(len(held)):
        host, old = slot_to_host[slot], held[slot]
        if old != EMPTY_SLOT and counts[old] <= min_copies:
            continue
        for new in range(len(counts)):
            if has[host, new] or not (host == slowest or has[slowest, new]):
                continue
            gain = base - _refilled(cost, has, counts, times, host, old, new)
            if gain > best:
                best, step = gain, (slot, new, -1, -1)
    return best, step


@inlined
def _best_swap(
    held: Ints, slot_to_host: Ints, cost: Floats, has: Flags, counts: Ints, times: Floats
) -> tuple[float, tuple[int, int, int, int]]:
    a = np.argmax(times)
    limit, best, step = times[a] * _LESS, 0.0, _NONE
    for slot in np.flatnonzero((slot_to_host == a) & (held != EMPTY_SLOT)):
        mine = held[slot]
        for other in range(len(held)):
            b, theirs = slot_to_host[other], held[other]
            if has[b, mine] or (theirs != EMPTY_SLOT and has[a, theirs]):
                continue
            time_a = times[a] - cost[mine, counts[mine], a]
            time_b = times[b] + cost[mine, counts[mine], b]
            if theirs != EMPTY_SLOT:
                time_a += cost[theirs, counts[theirs], a]
                time_b -= cost[theirs, counts[theirs], b]
            if max(time_a, time_b) >= limit:
                continue
            gain = times[a] ** 2 + times[b] ** 2 - time_a**2 - time_b**2
            gain /= 1 if theirs == EMPTY_SLOT else 2
            if gain > best:
                best, step = gain, (other, mine, slot, theirs)
    return best, step


@compiled(
    types.int64(
        types.int64[::1],
        types.int64[::1],
        types.float64[:, :, ::1],
        types.int64,
        types.int64[:, ::1],
        types.float64[::1],
    )
)
def _improve(
    held: Ints,
    slot_to_host: Ints,
    cost: Floats,
    min_copies: int,
    steps: Ints,
    slowest: Floats,
) -> int:
    num_experts, _, num_hosts = cost.shape
    has = np.zeros((num_hosts, num_experts), np.bool_)
    counts, times = np.zeros(num_experts, np.int64), np.zeros(num_hosts)
    for count in range(len(steps) + 1):
        _tally(held, slot_to_host, cost, has, counts, times)
        slowest[count] = times.max()
        if count == len(steps):
            break
        refill, step = _best_refill(held, slot_to_host, cost, min_copies, has, counts, times)
        swap, other_step = _best_swap(held, slot_to_host, cost, has, counts, times)
        if swap > refill:
            step = other_step
        if step[0] < 0:
            return count
        held[step[0]] = step[1]
        if step[2] >= 0:
            held[step[2]] = step[3]
        for i in range(4):
            steps[count, i] = step[i]
    return len(steps)

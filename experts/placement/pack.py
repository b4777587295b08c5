"""A layer's copies spread over hosts from nothing: how many of each, then where.

*How many*: each expert has `min_copies`; then, one at a time, the expert whose copy costs
the most gets another. *Where*: the costliest copies first, each on the host that is then
the least busy, has room and has no copy of the expert. Both steps are those of DeepSeek's
EPLB (github.com/deepseek-ai/EPLB, README: "redundant experts", then packing), here with
hosts of different size and speed.

Room for `min_copies` of the experts still to come is never given away. Where R of them
are left, the one being placed among them, and host h has r[h] free slots, the room is
sum of min(r[h], R). A *roomy* host, with r[h] >= R, has a slot too many for them after this
expert, whether it takes this one or not; another host's room shrinks only if it takes it:

    copies on hosts that are not roomy <= sum of min(r[h], R) - min_copies * (R - 1) - roomy

Worked example: hosts of 2 and 1 slots, 2 experts, one copy of each at least. Expert 0 is
the heavier one and wants both hosts. R is 2, the room 2 + 1, the first host roomy: at most
3 - 1 * 1 - 1 = 1 copy elsewhere, so it gets both. Expert 1 gets the slot left. Were there
another expert, R would be 3, no host roomy, and 3 - 1 * 2 - 0 = 1 copy all it gets.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled, inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def pack(cost: Floats, room: Ints, min_copies: int) -> Flags:
    """Which host has a copy of which expert. Shape: [num_hosts, num_experts].

    `cost` is a layer's `copy_costs`; `room` the slots of each host, enough for `min_copies`
    of every expert on different hosts. No slot stays empty whose host lacks an expert.
    """
    num_experts, _, num_hosts = cost.shape
    has = np.zeros((num_hosts, num_experts), np.bool_)
    room = np.minimum(room, num_experts)
    wanted = num_copies(cost, int(room.sum()), min_copies)
    per_copy = cost.mean(axis=2)[np.arange(num_experts), wanted]
    order = np.argsort(-per_copy, kind="stable")
    _place(cost, order, wanted, room, min_copies, has)
    return has


def num_copies(cost: Floats, num_slots: int, min_copies: int) -> Ints:
    """How many copies each expert should have, all of `num_slots`. Shape: [num_experts]."""
    num_experts, _, num_hosts = cost.shape
    wanted = np.full(num_experts, min_copies)
    mean = np.ascontiguousarray(cost.mean(axis=2))
    _replicate(mean, min(num_slots, num_experts * num_hosts), wanted)
    return wanted


@compiled(types.void(types.float64[:, ::1], types.int64, types.int64[::1]))
def _replicate(mean: Floats, num_slots: int, wanted: Ints) -> None:
    for _ in range(num_slots - wanted.sum()):
        best = -1
        for e in range(len(wanted)):
            if wanted[e] + 1 < mean.shape[1] and (
                best < 0 or mean[e, wanted[e]] > mean[best, wanted[best]]
            ):
                best = e
        wanted[best] += 1


@inlined
def _least_busy(
    cost: Floats, has: Flags, room: Ints, times: Floats, wanted: Ints, expert: int
) -> NDArray[np.int64]:
    """The hosts that can take a copy, the one that is done first with it first.

    Of equals the one with more room, so that experts with nothing to do are spread too.
    """
    free = np.flatnonzero((room > 0) & ~has[:, expert])
    free = free[np.argsort(-room[free], kind="mergesort")]
    then = times[free] + cost[expert, wanted[expert], free]
    return free[np.argsort(then, kind="mergesort")]


@inlined
def _fill(cost: Floats, wanted: Ints, room: Ints, times: Floats, has: Flags) -> None:
    """Give the slots that are left to the costliest copies that the host lacks."""
    for host in np.argsort(times, kind="mergesort"):
        for _ in range(room[host]):
            best, most = -1, -1.0
            for e in range(len(wanted)):
                if not has[host, e] and cost[e, wanted[e], host] > most:
                    best, most = e, cost[e, wanted[e], host]
            if best >= 0:
                has[host, best] = True
                wanted[best] += 1


@compiled(
    types.void(
        types.float64[:, :, ::1],
        types.int64[::1],
        types.int64[::1],
        types.int64[::1],
        types.int64,
        types.boolean[:, ::1],
    )
)
def _place(
    cost: Floats, order: Ints, wanted: Ints, room: Ints, min_copies: int, has: Flags
) -> None:
    times = np.zeros(len(room))
    for i in range(len(order)):
        expert, num_left = order[i], len(order) - i
        is_roomy = room >= num_left
        may_shrink = (
            np.minimum(room, num_left).sum() - min_copies * (num_left - 1) - is_roomy.sum()
        )
        num_placed = 0
        for host in _least_busy(cost, has, room, times, wanted, expert):
            if num_placed == wanted[expert] or (not is_roomy[host] and may_shrink == 0):
                continue
            has[host, expert] = True
            times[host] += cost[expert, wanted[expert], host]
            room[host] -= 1
            may_shrink -= not is_roomy[host]
            num_placed += 1
        wanted[expert] = num_placed
    _fill(cost, wanted, room, times, has)

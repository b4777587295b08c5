"""The nouns of dispatch: which copy computes what, in one layer and engine step.

A *pair* is a token and one of the experts that the gate chose for it; pairs are counted
through `topk_ids`, token by token. A *plan* gives each pair the slot of a copy, and each
host a *parcel*: the tokens whose hidden states it is sent, each once, and its pairs.

Worked example: tokens 0 and 1 have experts 0 and 2 each, so pairs 0 and 2 are of expert 0,
1 and 3 of expert 2. Slots 0 and 1 (with experts 0 and 1) are host a's, 2 and 3 (with 2 and
0) host b's. A plan with all pairs on b has the slots [[3, 2], [3, 2]] and a parcel for b
alone: rows [0, 1], and the pairs [1, 3, 0, 2] on b's own slots [0, 0, 1, 1], in the rows at
[0, 1, 0, 1]. The other plan sends both tokens to both hosts, which touch the weights of one
expert each.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from experts.types import Copies
from router.dispatch.settings import PolicyName

Ints = NDArray[np.int32]
Seconds = NDArray[np.float64]

POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

NO_COPY = -1
"""In place of a slot: no live host has a copy of the pair's expert."""

FIXED, PER_EXPERT, PER_PAIR = 0, 1, 2
"""Columns of a table of costs, in seconds: of a parcel, of each expert in it, and of
each pair."""


@dataclass(frozen=True, eq=False)
class LiveCopies:
    """The copies of a layer's experts to choose from: those on live hosts, of each expert
    at most one on a host, in ascending order of their slots.

    `expert_to_first[e] <= i < expert_to_first[e + 1]` are the indices of expert e's.
    """

    expert_to_first: Ints  # [num_experts + 1]
    slots: Ints  # [num_copies]
    hosts: Ints  # [num_copies]
    experts: Ints  # [num_copies]

    @classmethod
    def of(cls, copies: Copies, slot_to_host: Ints, is_live: NDArray[np.bool_]) -> "LiveCopies":
        """`slot_to_host` must not descend. Shapes: [num_slots], [num_hosts]."""
        num_experts = len(copies.expert_to_first) - 1
        experts = np.repeat(np.arange(num_experts), np.diff(copies.expert_to_first))
        hosts = slot_to_host[copies.slots]
        is_kept = is_live[hosts].astype(np.bool_)
        is_kept[1:] &= (hosts[1:] != hosts[:-1]) | (experts[1:] != experts[:-1])
        bounds = np.searchsorted(experts[is_kept], np.arange(num_experts + 1))
        kept = (bounds, copies.slots[is_kept], hosts[is_kept], experts[is_kept])
        return cls(*(np.ascontiguousarray(array, np.int32) for array in kept))

    @cached_property
    def arrays(self) -> tuple[Ints, Ints, Ints, Ints]:
        """All of them, in the order of the fields."""
        return self.expert_to_first, self.slots, self.hosts, self.experts


class Parcel(NamedTuple):
    """What one host is sent, and which answers belong to which pair.

    Pair i of the parcel is the token `rows[pair_rows[i]]`, computed by the expert in
    the host's own slot `pair_slots[i]`, and is the pair `pairs[i]` of the layer. Pairs
    are sorted by slot, then by token; rows ascend.
    """

    rows: Ints  # [num_rows], tokens
    pair_rows: Ints  # [num_pairs], indices of rows
    pair_slots: Ints  # [num_pairs], from the host's first slot on
    pairs: Ints  # [num_pairs]


class Layout(NamedTuple):
    """How the arrays of a plan follow each other in its memory."""

    num_hosts: int
    num_tokens: int
    top_k: int

    @property
    def num_pairs(self) -> int:
        """Those without a copy are counted too."""
        return self.num_tokens * self.top_k

    @property
    def first_slot(self) -> int:
        """Where the pairs' slots begin, after three arrays over the hosts."""
        return 3 * self.num_hosts + 2

    @property
    def size(self) -> int:
        """Of the whole, with room for as many rows as there can be."""
        max_rows = self.num_tokens * min(self.num_hosts, self.top_k)
        return self.first_slot + 4 * self.num_pairs + max_rows


@dataclass(frozen=True, eq=False)
class DispatchPlan:
    """Where the pairs of a layer go; what is to be sent of them, host by host.

    The arrays are parts of `memory`, which the plan owns.
    """

    layout: Layout
    memory: Ints  # [layout.size]

    @cached_property
    def slots(self) -> Ints:
        """Of each pair, or `NO_COPY`. Shape: [num_tokens, top_k]."""
        first, shape = self.layout.first_slot, (self.layout.num_tokens, self.layout.top_k)
        return self.memory[first : first + self.layout.num_pairs].reshape(shape)

    @cached_property
    def parcels(self) -> dict[int, Parcel]:
        """Of each host that is sent anything, ascending."""
        memory, (num_hosts, _, _) = self.memory, self.layout
        num_pairs, found = self.layout.num_pairs, {}
        first: list[int] = memory[: 2 * num_hosts + 2].tolist()
        first_pair = self.layout.first_slot + num_pairs
        first_row = first_pair + 3 * num_pairs
        for host in range(num_hosts):
            start = first_pair + first[num_hosts + 1 + host]
            end = first_pair + first[num_hosts + 2 + host]
            if start < end:
                found[host] = Parcel(
                    memory[first_row + first[host] : first_row + first[host + 1]],
                    memory[start + num_pairs : end + num_pairs],
                    memory[start + 2 * num_pairs : end + 2 * num_pairs],
                    memory[start:end],
                )
        return found

    @cached_property
    def is_whole(self) -> bool:
        """Whether each pair is in a parcel; not so where one has no copy, nor of what
        `Planner.replan` gives."""
        return int(self.memory[2 * self.layout.num_hosts + 1]) == self.layout.num_pairs

    @property
    def num_experts(self) -> Ints:
        """Different experts in each host's parcel. Shape: [num_hosts]."""
        return self.memory[2 * self.layout.num_hosts + 2 : self.layout.first_slot]

    @property
    def num_pairs(self) -> Ints:
        """In each host's parcel. Shape: [num_hosts]."""
        num_hosts = self.layout.num_hosts
        return np.diff(self.memory[num_hosts + 1 : 2 * num_hosts + 2])


def host_seconds(plan: DispatchPlan, costs: Seconds, busy_s: Seconds) -> Seconds:
    """When each host will have answered, by its costs; 0 for those that are sent nothing.

    Shapes: costs [num_hosts, 3], busy_s and result [num_hosts].
    """
    is_used = plan.num_experts > 0
    own = costs[:, FIXED] + costs[:, PER_EXPERT] * plan.num_experts
    return np.where(is_used, busy_s + own + costs[:, PER_PAIR] * plan.num_pairs, 0.0)

"""Plans for a model's layers, over the expert map in force and the hosts alive."""

import numpy as np
from numpy.typing import NDArray

from experts.types import ExpertMap
from router.dispatch.array_types import Scratch
from router.dispatch.grouping import group
from router.dispatch.improvement import improve
from router.dispatch.settings import PolicyName
from router.dispatch.shares import share_out
from router.dispatch.types import (
    FIXED,
    NO_COPY,
    PER_EXPERT,
    PER_PAIR,
    POLICIES,
    DispatchPlan,
    Ints,
    Layout,
    LiveCopies,
    Seconds,
)


class Planner:
    """Not for several threads at once: its scratch memory is for one call.

    A plan owns its memory: it stays as it is whatever is planned afterwards.
    """

    def __init__(self, expert_map: ExpertMap, policy: PolicyName) -> None:
        """All hosts of the map count as alive."""
        self._map = expert_map
        self._policy = POLICIES.index(policy)
        self._is_live = np.ones(len(expert_map.hosts), np.bool_)
        self._copies: list[LiveCopies | None] = [None] * expert_map.num_layers
        self._places = (
            expert_map.slot_to_host,
            np.ascontiguousarray(expert_map.host_to_first_slot),
        )
        self._scratch = Scratch(
            expert_map.num_experts, expert_map.num_slots, len(expert_map.hosts)
        )

    def set_live(self, is_live: NDArray[np.bool_]) -> None:
        """Only these hosts are sent anything from here on. Shape: [num_hosts]."""
        if is_live.tobytes() != self._is_live.tobytes():
            self._is_live = np.array(is_live, np.bool_)
            self._copies = [None] * self._map.num_layers

    def live_copies(self, layer: int) -> LiveCopies:
        """What there is to choose from."""
        found = self._copies[layer]
        if found is None:
            copies = self._map.logical_to_physical[layer]
            found = LiveCopies.of(copies, self._map.slot_to_host, self._is_live)
            self._copies[layer] = found
        return found

    def plan(self, layer: int, topk_ids: Ints, costs: Seconds, busy_s: Seconds) -> DispatchPlan:
        """A slot for each pair whose expert has a live copy.

        `topk_ids` are the experts of each token, no expert twice for one token, in an
        array without gaps. `busy_s` is what each host has to do before.

        Shapes: [num_tokens, top_k]; costs [num_hosts, 3]; busy_s [num_hosts].
        """
        layout = Layout(len(self._is_live), *topk_ids.shape)
        memory = np.empty(layout.size, np.int32)
        self._fill(layer, topk_ids, costs, busy_s, memory)
        return DispatchPlan(layout, memory)

    def replan(
        self,
        plan: DispatchPlan,
        layer: int,
        topk_ids: Ints,
        costs: Seconds,
        busy_s: Seconds,
    ) -> DispatchPlan:
        """A plan in whose parcels are the pairs that the earlier one gave to hosts which
        are no longer alive; all other pairs keep their slots and are in no parcel.

        What the live hosts got by the earlier plan counts as work that they still have
        to do, beside `busy_s`. Apply it to its own result where another host dies.
        The other arguments are those of the earlier call.
        """
        is_dead = ~self._is_live[self._map.slot_to_host]
        # `NO_COPY` finds the last one.
        is_lost = np.append(is_dead, False)[plan.slots]
        lost_ids = np.where(is_lost, topk_ids, np.int32(-1))
        memory = np.empty(plan.layout.size, np.int32)
        replanned = DispatchPlan(plan.layout, memory)
        replanned.slots[:] = plan.slots
        self._fill(layer, lost_ids, costs, busy_s + self._work_s(plan, costs), memory)
        return replanned

    def check_invariants(self) -> None:
        """What is remembered of the layers is what follows from map and liveness."""
        for layer, known in enumerate(self._copies):
            if known is not None:
                copies = self._map.logical_to_physical[layer]
                new = LiveCopies.of(copies, self._map.slot_to_host, self._is_live)
                for array, expected in zip(known.arrays, new.arrays, strict=True):
                    assert np.array_equal(array, expected)
                assert self._is_live[known.hosts].all()

    def _fill(
        self, layer: int, topk_ids: Ints, costs: Seconds, busy_s: Seconds, memory: Ints
    ) -> None:
        copies, scratch = self.live_copies(layer).arrays, self._scratch
        counts, load_s = scratch.counts, scratch.load_s
        num_movable = share_out(self._policy, topk_ids, copies, costs, busy_s, counts, load_s)
        if num_movable and self._policy == 0:
            improve(num_movable, copies, costs, counts, load_s, scratch.chain, scratch.chain_s)
        group(topk_ids, copies, counts[2], self._places, scratch.cursors, memory)

    def _work_s(self, plan: DispatchPlan, costs: Seconds) -> Seconds:
        """What each host has got, also by the plans before this one."""
        slots = plan.slots[plan.slots != NO_COPY]
        slot_to_host, num_hosts = self._map.slot_to_host, len(self._is_live)
        num_pairs = np.bincount(slot_to_host[slots], minlength=num_hosts)
        num_experts = np.bincount(slot_to_host[np.unique(slots)], minlength=num_hosts)
        work_s = np.where(num_pairs > 0, costs[:, FIXED], 0.0)
        return work_s + costs[:, PER_EXPERT] * num_experts + costs[:, PER_PAIR] * num_pairs

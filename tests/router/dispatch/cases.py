"""Small layers and calls, given or drawn, for the planner and for its slow twin alike."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
from hypothesis import strategies as st

from experts.types import ExpertMap, HostId
from router.dispatch.planner import Planner
from router.dispatch.settings import PolicyName
from router.dispatch.types import DispatchPlan, Ints
from tests.reference.dispatch import Layer, Parcel, Shares

CHEAP_PAIRS = (0.0, 1.0, 0.01)
"""As in decode: weights are what a host waits for."""


@dataclass(frozen=True)
class Case:
    """A layer and the experts of its tokens."""

    host_slots: list[list[int]]
    """Expert of each slot of each host, or -1."""
    topk_ids: list[list[int]]
    costs: list[tuple[float, float, float]]
    busy_s: list[float]
    is_live: list[bool]

    @property
    def held(self) -> list[int]:
        """Expert of each slot."""
        return list(chain.from_iterable(self.host_slots))

    @property
    def expert_map(self) -> ExpertMap:
        sizes = [len(slots) for slots in self.host_slots]
        return ExpertMap(
            version=1,
            num_experts=NUM_EXPERTS,
            hosts=tuple(HostId(f"h{i}") for i in range(len(sizes))),
            host_to_first_slot=np.cumsum([0, *sizes], dtype=np.int32),
            physical_to_logical=np.array([self.held], np.int16),
        )

    @property
    def layer(self) -> Layer:
        """For the twin."""
        slot_to_host = self.expert_map.slot_to_host.tolist()
        return Layer(self.held, slot_to_host, self.is_live, self.costs, self.busy_s)

    @property
    def ids(self) -> Ints:
        """Shape: [num_tokens, top_k]."""
        top_k = len(self.topk_ids[0]) if self.topk_ids else 1
        return np.array(self.topk_ids, np.int32).reshape(-1, top_k)

    @property
    def experts(self) -> list[int]:
        """Of each pair."""
        return self.ids.ravel().tolist()

    def planner(self, policy: PolicyName = "activated_experts") -> Planner:
        planner = Planner(self.expert_map, policy)
        planner.set_live(np.array(self.is_live))
        return planner

    def plan(self, policy: PolicyName = "activated_experts") -> DispatchPlan:
        planner = self.planner(policy)
        plan = planner.plan(0, self.ids, np.array(self.costs), np.array(self.busy_s))
        planner.check_invariants()
        return plan


NUM_EXPERTS = 5


def case(
    host_slots: list[list[int]],
    topk_ids: list[list[int]],
    cost: tuple[float, float, float] = CHEAP_PAIRS,
    busy_s: list[float] | None = None,
) -> Case:
    """All hosts alike and alive."""
    num_hosts = len(host_slots)
    busy_s = busy_s or [0.0] * num_hosts
    return Case(host_slots, topk_ids, [cost] * num_hosts, busy_s, [True] * num_hosts)


def shares_of(plan: DispatchPlan) -> Shares:
    """Pairs of each slot that has any."""
    slots, counts = np.unique(plan.slots, return_counts=True)
    return {int(s): int(n) for s, n in zip(slots, counts, strict=True) if s >= 0}


def parcels_of(plan: DispatchPlan, expert_map: ExpertMap) -> dict[int, Parcel]:
    """As the twin writes them."""
    found = {}
    for host, parcel in plan.parcels.items():
        slots = parcel.pair_slots + expert_map.host_to_first_slot[host]
        tokens = parcel.rows[parcel.pair_rows]
        pairs = zip(slots.tolist(), tokens.tolist(), parcel.pairs.tolist(), strict=True)
        found[host] = Parcel(parcel.rows.tolist(), list(pairs))
    return found


SLOTS = st.lists(st.integers(-1, NUM_EXPERTS - 1), max_size=3)
SECONDS = st.sampled_from([0.0, 1.0, 2.0, 5.0])
COSTS = st.tuples(SECONDS, SECONDS, st.sampled_from([0.0, 0.1, 1.0]))


@st.composite
def cases(draw: st.DrawFn, max_tokens: int = 3) -> Case:
    host_slots = draw(st.lists(SLOTS, min_size=1, max_size=4))
    num_hosts, top_k = len(host_slots), draw(st.integers(1, 3))
    token = st.permutations(range(NUM_EXPERTS)).map(lambda ids: list(ids[:top_k]))
    return Case(
        host_slots=host_slots,
        topk_ids=draw(st.lists(token, max_size=max_tokens)),
        costs=draw(st.lists(COSTS, min_size=num_hosts, max_size=num_hosts)),
        busy_s=draw(st.lists(SECONDS, min_size=num_hosts, max_size=num_hosts)),
        is_live=draw(st.lists(st.booleans(), min_size=num_hosts, max_size=num_hosts)),
    )

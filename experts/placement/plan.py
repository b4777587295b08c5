"""Where all copies should be: a new expert map from load, hosts and the map there is.

Each layer is planned by itself, since a step waits for the slowest host of each.

| algorithm | balances                 | starts from                                        |
|-----------|--------------------------|----------------------------------------------------|
| eplb      | tokens, over equal hosts | nothing: what has to move is not looked at         |
| cost      | time, as in `cost`       | the map: single steps as long as they pay, `search` |

A step pays where it lowers the layer's slowest over mean host time by at least
`min_gain_per_move` for each slot it fills, on the average of all steps taken. So never
more slots change than the fall of slowest over mean, divided by that.

Worked example: a layer at 1.30; three steps of one slot each lead to 1.20, 1.10, 1.0995.
At 0.002 a move the sums are 1.302 (none: 1.30), 1.202, 1.104, 1.1055: two steps are taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experts.placement.cost import Floats, copy_costs
from experts.placement.hosts import HostSpec, check_room, possible_copies
from experts.placement.layout import aligned, empty_map, slots_of, with_held, with_hosts
from experts.placement.load import Load
from experts.placement.pack import Ints, pack
from experts.placement.repair import cover
from experts.placement.search import Trail, improve
from experts.settings import AlgorithmName, RebalanceSection
from experts.types import EMPTY_SLOT, ExpertMap

_STEPS_PER_SLOT = 4
"""Far more than a search takes; a bound all the same."""


@dataclass(frozen=True, eq=False)
class LayerState:
    """One layer before it is planned."""

    held: Ints  # [num_slots]; no expert twice on one host
    slot_to_host: Ints  # [num_slots]
    cost: Floats  # [num_experts, num_hosts + 1, num_hosts]
    min_copies: int


Planner = Callable[[LayerState, RebalanceSection], Ints]
"""Gives each slot an expert or EMPTY_SLOT, in any order within a host."""


def plan(
    load: Load,
    hosts: Sequence[HostSpec],
    current: ExpertMap | None,
    settings: RebalanceSection,
) -> ExpertMap:
    """The map to go to, of all `hosts`, the leaving ones empty; one version further.

    Each expert has `min_copies` copies on different hosts, or as many as there is room
    for; never two on one host. Raises ConfigError where there is no room for one of each.
    """
    num_layers, num_experts = load.tokens_per_s.shape
    check_room(hosts, num_experts)
    start = current or empty_map(num_layers, num_experts, hosts)
    start = with_hosts(start, hosts)
    usable = _usable_slots(start, hosts)
    target = np.full_like(start.physical_to_logical, EMPTY_SLOT)
    for layer, held in enumerate(start.physical_to_logical):
        state = _layer_state(load, layer, hosts, start, usable, settings)
        row = np.full(start.num_slots, EMPTY_SLOT)
        row[usable] = PLANNERS[settings.algorithm](state, settings)
        target[layer] = aligned(held, row, start.host_to_first_slot)
    return with_held(start, target)


def by_tokens(state: LayerState, settings: RebalanceSection) -> Ints:
    """EPLB: replicate what is heaviest, and pack it evenly; see `pack`."""
    return _packed(state)


def by_cost(state: LayerState, settings: RebalanceSection) -> Ints:
    """The steps from where things are that pay; from nothing all steps that help."""
    held, move_price = state.held.copy(), settings.min_gain_per_move
    if (held == EMPTY_SLOT).all() or not cover(
        held, state.slot_to_host, state.cost, state.min_copies
    ):
        held, move_price = _packed(state), 0.0
    trail = improve(
        held, state.slot_to_host, state.cost, state.min_copies, _STEPS_PER_SLOT * len(held)
    )
    trail.replay(held, _num_paying(trail, _mean_time(held, state), move_price))
    return held


PLANNERS: dict[AlgorithmName, Planner] = {"eplb": by_tokens, "cost": by_cost}


def _num_paying(trail: Trail, mean: float, move_price: float) -> int:
    if mean == 0:
        return 0
    return int(np.argmin(trail.slowest / mean + move_price * trail.num_filled))


def _mean_time(held: Ints, state: LayerState) -> float:
    """Of the hosts with slots, in this layer."""
    filled = held != EMPTY_SLOT
    counts = np.bincount(held[filled], minlength=len(state.cost))
    experts = held[filled]
    times = state.cost[experts, counts[experts], state.slot_to_host[filled]]
    return float(times.sum()) / len(np.unique(state.slot_to_host))


def _packed(state: LayerState) -> Ints:
    num_hosts = state.cost.shape[2]
    room = np.bincount(state.slot_to_host, minlength=num_hosts)
    held = np.full(len(state.held), EMPTY_SLOT)
    for host, has in enumerate(pack(state.cost, room, state.min_copies)):
        experts = np.flatnonzero(has)
        held[np.flatnonzero(state.slot_to_host == host)[: len(experts)]] = experts
    return held


def _layer_state(
    load: Load,
    layer: int,
    hosts: Sequence[HostSpec],
    start: ExpertMap,
    usable: NDArray[np.intp],
    settings: RebalanceSection,
) -> LayerState:
    if settings.algorithm == "eplb":
        hosts = [replace(spec, activation_s=0.0, token_s=1.0) for spec in hosts]
    sizes = [spec.num_usable_slots for spec in hosts]
    return LayerState(
        held=_without_doubles(start, layer)[usable],
        slot_to_host=start.slot_to_host[usable].astype(np.int64),
        cost=copy_costs(load, layer, hosts, settings.split_tokens),
        min_copies=possible_copies(sizes, start.num_experts, settings.min_copies),
    )


def _usable_slots(start: ExpertMap, hosts: Sequence[HostSpec]) -> NDArray[np.intp]:
    is_leaving = np.array([spec.is_leaving for spec in hosts])
    return np.flatnonzero(~is_leaving[start.slot_to_host])


def _without_doubles(start: ExpertMap, layer: int) -> Ints:
    """A layer's slots, the second and further copies on one host taken out."""
    held = np.full(start.num_slots, EMPTY_SLOT)
    for index in range(len(start.hosts)):
        slots = slots_of(start, index)
        mine = start.physical_to_logical[layer, slots]
        _, firsts = np.unique(mine, return_index=True)
        held[slots.start + firsts] = mine[firsts]
    return held

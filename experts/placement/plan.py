"""Where all copies should be: a new expert map from load, hosts and the map there is.

Each layer is planned by itself, since a step waits for the slowest host of each.

| algorithm | balances                 | starts from                                    |
|-----------|--------------------------|------------------------------------------------|
| eplb      | tokens, over equal hosts | nothing: what has to move is not looked at     |
| cost      | time, as in `cost`       | the map: only what pays is moved, see `refine` |
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experts.placement.cost import copy_costs
from experts.placement.hosts import HostSpec, check_room, possible_copies
from experts.placement.layer_state import Ints, LayerState
from experts.placement.layout import aligned, empty_map, slots_of, with_held, with_hosts
from experts.placement.load import Load
from experts.placement.pack import pack
from experts.placement.refine import refine
from experts.placement.repair import cover
from experts.settings import AlgorithmName, RebalanceSection
from experts.types import EMPTY_SLOT, ExpertMap

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
    """From where things are, what pays; from nothing, the best that is found."""
    row = state.held.copy()
    if not state.is_empty and cover(row, state.slot_to_host, state.cost, state.min_copies):
        return refine(state, row, settings.min_gain_per_move)
    return refine(state, _packed(state), move_price=0.0)


PLANNERS: dict[AlgorithmName, Planner] = {"eplb": by_tokens, "cost": by_cost}


def _packed(state: LayerState) -> Ints:
    row = np.full(len(state.held), EMPTY_SLOT)
    for host, has in enumerate(pack(state.cost, state.room, state.min_copies)):
        experts = np.flatnonzero(has)
        row[np.flatnonzero(state.slot_to_host == host)[: len(experts)]] = experts
    return row


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

"""Expert maps laid out over other hosts, and rows of them compared slot by slot."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experts.placement.hosts import HostSpec
from experts.types import EMPTY_SLOT, ExpertMap, HostId

Row = NDArray[np.integer]
Slots = NDArray[np.int16]


def empty_map(num_layers: int, num_experts: int, hosts: Sequence[HostSpec]) -> ExpertMap:
    """Version 0: the hosts' slots, with nothing in them."""
    first = np.cumsum([0, *(spec.num_slots for spec in hosts)], dtype=np.int32)
    held = np.full((num_layers, int(first[-1])), EMPTY_SLOT, np.int16)
    return ExpertMap(0, num_experts, tuple(spec.host for spec in hosts), first, held)


def with_hosts(current: ExpertMap, hosts: Sequence[HostSpec]) -> ExpertMap:
    """The map as it is once these are the hosts: the same one, or the next version.

    What was on other hosts is gone; slots of hosts that are new to the map are empty.
    """
    relaid = empty_map(current.num_layers, current.num_experts, hosts)
    if relaid.hosts == current.hosts:
        assert np.array_equal(relaid.host_to_first_slot, current.host_to_first_slot)
        return current
    for index, host in enumerate(relaid.hosts):
        if host in current.hosts:
            relaid.physical_to_logical[:, slots_of(relaid, index)] = (
                current.physical_to_logical[:, slots_of(current, current.hosts.index(host))]
            )
    return with_held(current, relaid.physical_to_logical, hosts=relaid)


def with_held(
    current: ExpertMap, held: NDArray[np.int16], hosts: ExpertMap | None = None
) -> ExpertMap:
    """The next version, with this in the slots, of its own hosts or those of `hosts`."""
    where = hosts or current
    return ExpertMap(
        current.version + 1, current.num_experts, where.hosts, where.host_to_first_slot, held
    )


def slots_of(expert_map: ExpertMap, host_index: int) -> slice:
    """The slots of one of the map's hosts."""
    first = expert_map.host_to_first_slot
    return slice(int(first[host_index]), int(first[host_index + 1]))


def experts_by_host(expert_map: ExpertMap, layer: int) -> dict[HostId, list[int]]:
    """What each host holds of a layer, sorted: two maps alike in this differ in nothing
    but the order of slots."""
    held = expert_map.physical_to_logical[layer]
    return {
        host: sorted(int(e) for e in held[slots_of(expert_map, i)] if e != EMPTY_SLOT)
        for i, host in enumerate(expert_map.hosts)
    }


def aligned(current: Row, target: Row, host_to_first_slot: NDArray[np.int32]) -> Slots:
    """`target` with the slots of each host in such an order that experts stay in the
    slots where they are. New ones go to empty slots first. Rows: [num_slots]."""
    result = np.full(len(target), EMPTY_SLOT, np.int16)
    for start, end in itertools.pairwise(host_to_first_slot):
        wanted = [int(expert) for expert in target[start:end] if expert != EMPTY_SLOT]
        for slot in range(start, end):
            if current[slot] in wanted:
                result[slot] = current[slot]
                wanted.remove(int(current[slot]))
        free = [slot for slot in range(start, end) if result[slot] == EMPTY_SLOT]
        free.sort(key=lambda slot: bool(current[slot] != EMPTY_SLOT))
        result[free[: len(wanted)]] = wanted
    return result

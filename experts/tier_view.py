"""What an engine knows of its expert hosts: which slots hold what, by their own word.

Each host announces its slots when it is joined, and again whenever some of them change:
first that a copy may no longer be used, and only after every engine has acknowledged
that does it overwrite the slot; then what the slot holds. So no engine ever sends
tokens to a slot that holds something else than it believes, and there is no version that
all hosts would have to switch to at once.

Worked example: host a has [[0, 1]] (one layer, two slots). To take expert 2 in place of
1 it announces [[0, EMPTY]], gets each engine's acknowledgement, reads the weights, and
announces [[0, 2]].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.types import EMPTY_SLOT, ExpertMap, HostId
from infra.errors import ConfigError


@dataclass(frozen=True, eq=False)
class SlotTable:
    """What a host's slots hold, by its own word."""

    version: int
    """Counts the host's announcements, from 1."""
    held: NDArray[np.int16]  # [num_layers, num_slots], EMPTY_SLOT where nothing may be used


class TierView:
    """The hosts that an engine has a link to, and the map of their copies.

    Not for several threads at once.
    """

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self._shape = num_layers, num_experts
        self._tables: dict[HostId, SlotTable] = {}
        self._map = self._assembled(0)

    @property
    def map(self) -> ExpertMap:
        """Of all hosts, in the order of their joining. A new one after each change."""
        return self._map

    @property
    def tables(self) -> Mapping[HostId, SlotTable]:
        """The latest word of each host."""
        return self._tables

    def announced(self, host: HostId, table: SlotTable) -> bool:
        """A host has joined, or its slots have changed; whether that was news.

        Raises ConfigError for a table that is not of this model.
        """
        known = self._tables.get(host)
        if known is not None and table.version <= known.version:
            return False
        self._check(host, table.held, known)
        self._tables[host] = table
        self._map = self._assembled(self._map.version + 1)
        return True

    def lost(self, host: HostId) -> bool:
        """A host is gone, with all of its copies; whether it was there."""
        if self._tables.pop(host, None) is None:
            return False
        self._map = self._assembled(self._map.version + 1)
        return True

    def check_invariants(self) -> None:
        """Raises AssertionError where the map is not what the hosts have told."""
        self._map.check_invariants()
        assert self._map.hosts == tuple(self._tables)
        for number, table in enumerate(self._tables.values()):
            first, end = self._map.host_to_first_slot[number : number + 2]
            assert np.array_equal(self._map.physical_to_logical[:, first:end], table.held)

    def _check(self, host: HostId, held: NDArray[np.int16], known: SlotTable | None) -> None:
        num_layers, num_experts = self._shape
        fits = held.dtype == np.int16 and held.ndim == 2 and held.shape[0] == num_layers
        if not fits or ((held < EMPTY_SLOT) | (held >= num_experts)).any():
            raise ConfigError(
                f"the expert host {host} has slots of another model: this one has "
                f"{num_layers} layers with {num_experts} experts each"
            )
        if known is not None and known.held.shape != held.shape:
            raise ConfigError(f"the expert host {host} has changed its number of slots")

    def _assembled(self, version: int) -> ExpertMap:
        num_layers, num_experts = self._shape
        held = [table.held for table in self._tables.values()]
        nothing = np.empty((num_layers, 0), np.int16)
        sizes = [rows.shape[1] for rows in held]
        return ExpertMap(
            version=version,
            num_experts=num_experts,
            hosts=tuple(self._tables),
            host_to_first_slot=np.cumsum([0, *sizes], dtype=np.int32),
            physical_to_logical=np.concatenate([nothing, *held], axis=1),
        )

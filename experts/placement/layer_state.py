"""One layer while it is planned: its slots, and what filling them costs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.types import EMPTY_SLOT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerState:
    """What a layer's plan starts from. Only slots that may be filled are counted.

    A *row* gives each slot an expert or EMPTY_SLOT, no expert twice on one host.
    """

    held: Ints  # [num_slots], a row
    slot_to_host: Ints  # [num_slots]
    cost: Floats  # [num_experts, num_hosts + 1, num_hosts], see `cost.copy_costs`
    min_copies: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is anywhere yet."""
        return bool((self.held == EMPTY_SLOT).all())

    @property
    def room(self) -> Ints:
        """Slots of each host. Shape: [num_hosts]."""
        return np.bincount(self.slot_to_host, minlength=self.cost.shape[2])

    def counts(self, row: Ints) -> Ints:
        """Copies of each expert. Shape: [num_experts]."""
        return np.bincount(row[row != EMPTY_SLOT], minlength=len(self.cost))

    def times(self, row: Ints) -> Floats:
        """Busy share of each host that has slots. Shape: [num_hosts with slots]."""
        filled = row != EMPTY_SLOT
        experts, hosts = row[filled], self.slot_to_host[filled]
        times = np.zeros(self.cost.shape[2])
        np.add.at(times, hosts, self.cost[experts, self.counts(row)[experts], hosts])
        return times[self.room > 0]

    def num_moves(self, start: Ints, row: Ints) -> int:
        """Copies that hosts have in `row` and did not have in `start`."""
        return int((self._has(row) & ~self._has(start)).sum())

    def _has(self, row: Ints) -> NDArray[np.bool_]:
        has = np.zeros((self.cost.shape[2], len(self.cost)), np.bool_)
        filled = row != EMPTY_SLOT
        has[self.slot_to_host[filled], row[filled]] = True
        return has

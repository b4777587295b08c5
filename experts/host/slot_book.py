"""What a host's slots are announced to hold, and from which announcement on.

An engine plans a request by one of the host's announcements and names it in the request.
The request may be computed exactly if all its slots hold now what they held then: if none
is empty, and none was filled by a later announcement. So no request gets the result of
another expert, however late it comes.

Worked example: a layer of two slots. Announcement 1 is [E, E] (E: empty), 2 is [4, 7], 3
is [E, 7], 4 is [5, 7]: slot 0 was filled by 4, slot 1 by 2. Slot 0 may be asked by 4
alone, slot 1 by 2, 3 and 4.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from experts.tier_view import SlotTable
from experts.types import EMPTY_SLOT, ModelShape
from infra.compiled import compiled

Moves = NDArray[np.int32]
"""Layer, slot, logical expert or EMPTY_SLOT. Shape: [num_moves, 3]."""


class SlotBook:
    """The announcements of one host. Begins with the first one: all slots are empty."""

    def __init__(self, shape: ModelShape, num_slots: int) -> None:
        held = np.full((shape.num_layers, num_slots), EMPTY_SLOT, np.int16)
        self.num_experts = shape.num_experts
        self._table = SlotTable(1, held)
        self._filled_at = np.ones(held.shape, np.int64)
        """The announcement that told what the slot holds. Shape: as `held`."""

    @property
    def table(self) -> SlotTable:
        """The latest announcement; never changed, so any thread may read it."""
        return self._table

    def withdraw(self, moves: Moves) -> bool:
        """Announce that the slots may not be used; whether one of them was in use."""
        return self._announce(moves[:, 0], moves[:, 1], EMPTY_SLOT)

    def fill(self, moves: Moves) -> bool:
        """Announce what empty slots hold from here on; whether that is news."""
        layers, slots, experts = moves.T
        assert (self._table.held[layers, slots] == EMPTY_SLOT).all(), "withdraw first"
        return self._announce(layers, slots, experts)

    def experts_of(
        self, layer: int, slots: NDArray[np.int32], version: int
    ) -> NDArray[np.int16] | None:
        """What the slots hold; None where a request of this version may not be computed.

        Shapes: [num_pairs], of both. Raises IndexError for a slot that there is not.
        """
        held, latest = self._table.held[layer], self._table.version
        experts = np.empty(len(slots), np.int16)
        told = min(version, latest)
        wrong = _look_up(held, self._filled_at[layer], slots, told, experts)
        if wrong >= 0 and not 0 <= slots[wrong] < len(held):
            raise IndexError(f"slot {slots.view(np.uint32)[wrong]} of {len(held)}")
        return experts if wrong < 0 and version <= latest else None

    def check_invariants(self) -> None:
        """Raises AssertionError where the announcements contradict each other."""
        held = self._table.held
        assert held.shape == self._filled_at.shape
        assert ((held >= EMPTY_SLOT) & (held < self.num_experts)).all()
        assert ((self._filled_at >= 1) & (self._filled_at <= self._table.version)).all()

    def _announce(
        self,
        layers: NDArray[np.int32],
        slots: NDArray[np.int32],
        experts: NDArray[np.int32] | int,
    ) -> bool:
        held = self._table.held.copy()
        held[layers, slots] = experts
        is_changed = held != self._table.held
        if not is_changed.any():
            return False
        self._table = SlotTable(self._table.version + 1, held)
        self._filled_at[is_changed & (held != EMPTY_SLOT)] = self._table.version
        return True


@compiled(
    types.int64(
        types.Array(types.int16, 1, "C", readonly=True),
        types.Array(types.int64, 1, "C", readonly=True),
        types.Array(types.int32, 1, "C", readonly=True),
        types.int64,
        types.int16[::1],
    )
)
def _look_up(
    held: NDArray[np.int16],
    filled_at: NDArray[np.int64],
    slots: NDArray[np.int32],
    version: int,
    experts: NDArray[np.int16],
) -> int:
    """What the slots hold; the first pair whose slot there is not or, if all are there, one
    whose slot does not hold what it held at the version; -1 where all do."""
    wrong = -1
    for pair in range(len(slots)):
        slot = slots[pair]
        if not 0 <= slot < len(held):
            return pair
        experts[pair] = held[slot]
        if held[slot] == EMPTY_SLOT or filled_at[slot] > version:
            wrong = pair
    return wrong

"""Memory for what a kernel is called with, kept from call to call.

A host calls its kernel thousands of times a second, mostly for a few pairs. To take tensors
for each call, and to fill them by one call of torch after the other, would cost as much as the
experts of a small model; so tensors are views of memory that is there, and are kept for each
number of pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray

from deployments.experts.rows import as_numpy
from infra.compiled import compiled

_INTS = types.Array(types.int32, 1, "C", readonly=True)
_MAX_KEPT = 4096


@dataclass(frozen=True, eq=False)
class PairRoom:
    """The arguments of one call for so many pairs. What they hold is the last call's."""

    inputs: torch.Tensor  # [num_pairs, padded_size]; 0 beyond the hidden size
    slots: torch.Tensor  # [num_pairs, 1], int32
    weights: torch.Tensor  # [num_pairs, 1], float32
    output: torch.Tensor  # as the inputs
    num_pairs: int

    def part(self, start: int, end: int) -> "PairRoom":
        """The same memory, for some of the pairs."""
        some = (self.inputs, self.slots, self.weights, self.output)
        inputs, slots, weights, output = (tensor[start:end] for tensor in some)
        return PairRoom(inputs, slots, weights, output, end - start)


class PairRooms:
    """Grows with the greatest number of pairs. Not for several threads at once."""

    def __init__(self, padded_size: int, dtype: torch.dtype) -> None:
        self._padded_size = padded_size
        self._dtype = dtype
        self._rooms: dict[int, PairRoom] = {}
        self._grow(64)

    def of(self, num_pairs: int) -> PairRoom:
        """The room for so many; the same memory each time."""
        if num_pairs > len(self._bits):
            self._grow(2 * num_pairs)
        found = self._rooms.get(num_pairs)
        if found is None:
            if len(self._rooms) == _MAX_KEPT:
                self._rooms.clear()
            found = self._rooms[num_pairs] = self._whole.part(0, num_pairs)
        return found

    def put(
        self,
        first: int,
        rows: NDArray[Any],
        pair_to_row: NDArray[np.int32],
        pair_to_slot: NDArray[np.int32],
    ) -> None:
        """Fill the room from this pair on: the row of each pair, and its slot.

        Shapes: [num_rows, hidden_size] of the room's dtype, [num_pairs] of both. Raises
        IndexError for a row that there is not.
        """
        halves = rows.view(np.uint16)
        if not _put(halves, pair_to_row, pair_to_slot, first, self._bits, self._slots):
            raise IndexError(f"a pair has a row that is none of {len(rows)}")

    def slots(self, num_pairs: int) -> NDArray[np.int32]:
        """Those of the first pairs. Shape: [num_pairs]."""
        return self._slots[:num_pairs]

    def _grow(self, num_pairs: int) -> None:
        size = (num_pairs, self._padded_size)
        self._whole = PairRoom(
            torch.zeros(size, dtype=self._dtype),
            torch.zeros(num_pairs, 1, dtype=torch.int32),
            torch.ones(num_pairs, 1, dtype=torch.float32),
            torch.zeros(size, dtype=self._dtype),
            num_pairs,
        )
        self._bits: NDArray[np.uint16] = as_numpy(self._whole.inputs).view(np.uint16)
        self._slots: NDArray[np.int32] = self._whole.slots.numpy()[:, 0]
        self._rooms.clear()


@compiled(
    types.boolean(
        types.Array(types.uint16, 2, "C", readonly=True),
        *(_INTS, _INTS, types.int64),
        types.uint16[:, ::1],
        types.int32[::1],
    )
)
def _put(
    rows: NDArray[np.uint16],
    pair_to_row: NDArray[np.int32],
    pair_to_slot: NDArray[np.int32],
    first: int,
    into: NDArray[np.uint16],
    slots: NDArray[np.int32],
) -> bool:
    """Whether there are all these rows."""
    width = rows.shape[1]
    for pair in range(len(pair_to_row)):
        row = pair_to_row[pair]
        if not 0 <= row < len(rows):
            return False
        slots[first + pair] = pair_to_slot[pair]
        for i in range(width):
            into[first + pair, i] = rows[row, i]
    return True

"""Computing experts: rows and (row, slot) pairs in, one row for each pair out.

A *pair* is a row of activations with a slot whose expert the gate chose for it. Its
result is `down @ (silu(gate @ x) * (up @ x))`, not yet weighted by the gate, in
float32: the engine weights and adds the pairs of a token (`kernel_combine`), and rounds
once. A result rounded to bfloat16 before that changes a third of a token's numbers.

Worked example: two engines ask for layer 3. The first sends 2 rows, of which row 0 goes
to the slots 4 and 5 and row 1 to slot 4; the second sends 1 row to slot 4. The kernel
is called once, for 4 pairs, 3 of them of slot 4, and gives back 3 and 1 rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.experts.rows import as_tensor
from experts.types import EMPTY_SLOT

Results = NDArray[np.float32]
"""A row for each pair. Shape: [num_pairs, hidden_size]."""


@dataclass(frozen=True, eq=False)
class PairRequest:
    """What one engine asks of one layer."""

    rows: NDArray[Any]  # [num_rows, hidden_size], of the kernel's dtype
    pair_to_row: NDArray[np.int32]  # [num_pairs]
    pair_to_slot: NDArray[np.int32]  # [num_pairs]
    pair_to_expert: NDArray[np.int16] | None = None  # [num_pairs]
    """What the slots are thought to hold, where that is to be checked."""

    def __post_init__(self) -> None:
        assert len(self.pair_to_row) == len(self.pair_to_slot)


class ExpertKernel(Protocol):
    """What computes on an expert host; used by one thread at a time."""

    @property
    def is_exact(self) -> bool:
        """Whether the combined result is that of vLLM's own layer, bit for bit."""
        ...

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        """The results of several requests by one call: a row for each pair, in order.

        Shapes: [num_pairs, hidden_size], float32, of each request. A row depends on its
        own pair alone, not on what else is computed with it.

        Raises:
            StaleSlotError: a request names a slot that does not hold its expert; no
                request is computed, and the others may be tried without it.
            IndexError: a request names a row that it has not.
        """
        ...


@dataclass(frozen=True, eq=False)
class PairBatch:
    """The pairs of several requests, one after the other."""

    inputs: torch.Tensor  # [num_pairs, hidden_size]
    slots: NDArray[np.int32]  # [num_pairs]
    experts: NDArray[np.int16] | None  # [num_pairs]
    sizes: tuple[int, ...]
    """Pairs of each request."""

    @classmethod
    def of(cls, requests: Sequence[PairRequest]) -> "PairBatch":
        """Copies each row once for each of its pairs."""
        parts = [
            as_tensor(r.rows).index_select(0, torch.from_numpy(r.pair_to_row)) for r in requests
        ]
        inputs = parts[0] if len(parts) == 1 else torch.cat(parts)
        slots = [request.pair_to_slot for request in requests]
        sizes = tuple(len(part) for part in slots)
        whole = slots[0] if len(slots) == 1 else np.concatenate(slots)
        return cls(inputs, whole, experts_of(requests), sizes)

    def split(self, results: torch.Tensor) -> list[Results]:
        """Those of each request. Shape: [num_pairs, hidden_size]."""
        return split(results.numpy(), self.sizes)


def split(results: Results, sizes: Sequence[int]) -> list[Results]:
    """Parts of so many rows, one after the other. Shape: [num_pairs, hidden_size]."""
    if len(sizes) == 1:
        return [results]
    return np.split(results, np.cumsum(sizes)[:-1])


def experts_of(requests: Sequence[PairRequest]) -> NDArray[np.int16] | None:
    """What slots are thought to hold; EMPTY_SLOT for pairs that are not checked, None where
    none is. Shape: [num_pairs]."""
    if len(requests) == 1:
        return requests[0].pair_to_expert
    if all(request.pair_to_expert is None for request in requests):
        return None
    return np.concatenate(
        [
            np.full(len(request.pair_to_slot), EMPTY_SLOT, np.int16)
            if request.pair_to_expert is None
            else request.pair_to_expert
            for request in requests
        ]
    )

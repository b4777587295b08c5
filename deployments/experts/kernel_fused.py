"""The expert kernel of CPU hosts: vLLM's own, one call for all pairs."""

from collections.abc import Sequence

import torch

from deployments.experts.kernel import PairRequest, Results, experts_of, split
from deployments.experts.kernel_scratch import PairComputer, has_readable_results
from deployments.experts.pair_room import PairRooms
from deployments.experts.rows import as_numpy
from deployments.experts.weights import ExpertSlots
from deployments.experts.weights_packed import PackedWeights


class FusedKernel:
    """An `ExpertKernel` over packed weights.

    Computes with as many threads as the calling thread has asked of torch: a thread does
    not inherit what another has asked.
    """

    def __init__(self, slots: ExpertSlots, weights: PackedWeights) -> None:
        self._slots = slots
        self._weights = weights
        self._rooms = PairRooms(weights.hidden_size, weights.dtype)
        self._computer = PairComputer(weights.layer(0), slots.shape.hidden_size)
        self._hidden_size = slots.shape.hidden_size
        self._row_dtype = as_numpy(torch.empty(0, dtype=weights.dtype)).dtype
        self.is_exact: bool = weights.dtype == torch.float32 or has_readable_results()

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        """See `ExpertKernel`."""
        sizes = [len(request.pair_to_slot) for request in requests]
        room, first = self._rooms.of(sum(sizes)), 0
        for request, size in zip(requests, sizes, strict=True):
            assert request.rows.dtype == self._row_dtype
            assert request.rows.shape[1] == self._hidden_size
            self._rooms.put(first, request.rows, request.pair_to_row, request.pair_to_slot)
            first += size
        slots = self._rooms.slots(first)
        with self._slots.in_use(layer, slots, experts_of(requests)):
            results = self._computer.compute(self._weights.layer(layer), room)
        return split(results, sizes)

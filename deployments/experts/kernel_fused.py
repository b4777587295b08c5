"""The expert kernel of CPU hosts: vLLM's own, one call for all pairs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from deployments.experts.kernel import PairBatch, PairRequest
from deployments.experts.kernel_scratch import compute_pairs, has_readable_results
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
        self.is_exact: bool = weights.dtype == torch.float32 or has_readable_results()

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[torch.Tensor]:
        """See `ExpertKernel`."""
        batch = PairBatch.of(requests)
        assert batch.inputs.dtype == self._weights.dtype
        hidden_size = batch.inputs.shape[1]
        missing = self._weights.hidden_size - hidden_size
        inputs = F.pad(batch.inputs, (0, missing)) if missing else batch.inputs
        with self._slots.in_use(layer, batch.slots, batch.experts):
            results = compute_pairs(
                self._weights.layer(layer), inputs, torch.from_numpy(batch.slots)
            )
        return batch.split(results[:, :hidden_size])

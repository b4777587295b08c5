"""The expert kernel over 8-bit weights: torch's own product, one expert after the other."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from deployments.experts.kernel import PairBatch, PairRequest, Results
from deployments.experts.weights import ExpertSlots
from deployments.experts.weights_int8 import Int8Weight, Int8Weights


class Int8Kernel:
    """An `ExpertKernel`. Activations are bfloat16, whatever the requests' are."""

    is_exact = False

    def __init__(self, slots: ExpertSlots, weights: Int8Weights) -> None:
        self._slots = slots
        self._weights = weights

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        """See `ExpertKernel`."""
        batch = PairBatch.of(requests)
        hidden_size = batch.inputs.shape[1]
        missing = self._weights.hidden_size - hidden_size
        inputs = F.pad(batch.inputs.bfloat16(), (0, missing))
        results = torch.empty(inputs.shape, dtype=torch.float32)
        with self._slots.in_use(layer, batch.slots, batch.experts):
            for slot in np.unique(batch.slots).tolist():
                chosen = torch.from_numpy(np.flatnonzero(batch.slots == slot))
                results[chosen] = self._expert(layer, slot, inputs[chosen])
        return batch.split(results[:, :hidden_size])

    def _expert(self, layer: int, slot: int, inputs: torch.Tensor) -> torch.Tensor:
        """Shape: [num_pairs, hidden_size], float32."""
        gate, up = _product(inputs, self._weights.w13[layer, slot]).chunk(2, dim=1)
        between = (F.silu(gate) * up).bfloat16()
        return _product(between, self._weights.w2[layer, slot])


def _product(inputs: torch.Tensor, weight: Int8Weight) -> torch.Tensor:
    """Shape: [num_pairs, num_outputs], float32."""
    return torch._weight_int8pack_mm(inputs, weight.numbers, weight.scales).float()

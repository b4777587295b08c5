"""The expert kernel in plain torch, one expert after the other: slow, on any device.

It rounds where vLLM's kernel rounds, after the activation, but adds up in another order.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from deployments.experts.checkpoint import tensors_of
from deployments.experts.kernel import PairBatch, PairRequest, Results
from deployments.experts.weights import ExpertSlots
from experts.checkpoint.types import ExpertStrips
from experts.types import ModelShape


class PlainWeights:
    """A `Storage` of the weights as they are."""

    def __init__(
        self, shape: ModelShape, num_slots: int, dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        where = {"dtype": dtype, "device": device}
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self.w13 = torch.empty(shape.num_layers, num_slots, 2 * inner, hidden, **where)
        self.w2 = torch.empty(shape.num_layers, num_slots, hidden, inner, **where)

    @property
    def bytes_per_slot(self) -> int:
        """Of one layer."""
        return int(self.w13[0, 0].nbytes + self.w2[0, 0].nbytes)

    def write(self, layer: int, slot: int, strips: ExpertStrips) -> None:
        """See `Storage`."""
        gate, up, down = tensors_of(strips)
        self.w13[layer, slot, : len(gate)] = gate
        self.w13[layer, slot, len(gate) :] = up
        self.w2[layer, slot] = down


class TorchKernel:
    """An `ExpertKernel` over plain weights."""

    is_exact = False

    def __init__(self, slots: ExpertSlots, weights: PlainWeights) -> None:
        self._slots = slots
        self._weights = weights

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        """See `ExpertKernel`."""
        batch = PairBatch.of(requests)
        results = torch.empty(batch.inputs.shape, dtype=torch.float32)
        with self._slots.in_use(layer, batch.slots, batch.experts):
            for slot in np.unique(batch.slots):
                chosen = torch.from_numpy(np.flatnonzero(batch.slots == slot))
                results[chosen] = self._expert(layer, slot, batch.inputs[chosen]).cpu()
        return batch.split(results)

    def _expert(self, layer: int, slot: int, inputs: torch.Tensor) -> torch.Tensor:
        """Shape: [num_pairs, hidden_size], float32."""
        w13, w2 = self._weights.w13[layer, slot], self._weights.w2[layer, slot]
        gate, up = F.linear(inputs.to(w13.device).float(), w13.float()).chunk(2, dim=1)
        between = (F.silu(gate) * up).to(inputs.dtype)
        return F.linear(between.float(), w2.float())

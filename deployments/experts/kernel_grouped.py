"""The expert kernel of GPU hosts: torch's grouped matrix products, two for all pairs.

Pairs are put in the order of their slots, so that each expert's are one run of rows; a
product takes all runs at once, each with its own expert's weights, and reads no others.
Activations are rounded where vLLM's kernel for GPUs rounds them: after each product.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from deployments.experts.kernel import PairBatch, PairRequest, Results
from deployments.experts.kernel_torch import PlainWeights
from deployments.experts.weights import ExpertSlots
from experts.types import ModelShape

_ROW_BYTES = 16
"""The products read rows of weights in so many bytes."""


def takes(shape: ModelShape, dtype: torch.dtype) -> bool:
    """Whether torch has grouped products for experts like these, on GPUs too."""
    sizes = (shape.hidden_size, shape.intermediate_size)
    return dtype == torch.bfloat16 and all(
        size * dtype.itemsize % _ROW_BYTES == 0 for size in sizes
    )


class GroupedKernel:
    """An `ExpertKernel` over plain weights, on the device that these are on."""

    is_exact = False

    def __init__(self, slots: ExpertSlots, weights: PlainWeights) -> None:
        assert takes(slots.shape, weights.w13.dtype)
        self._slots = slots
        self._weights = weights

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        """See `ExpertKernel`."""
        batch = PairBatch.of(requests)
        if not len(batch.slots):
            return batch.split(torch.empty(batch.inputs.shape, dtype=torch.float32))
        order = np.argsort(batch.slots, kind="stable")
        results = torch.empty(batch.inputs.shape, dtype=torch.float32)
        with self._slots.in_use(layer, batch.slots, batch.experts):
            ends = np.bincount(batch.slots, minlength=self._slots.num_slots).cumsum()
            sorted_ = torch.from_numpy(order)
            results[sorted_] = self._computed(layer, batch.inputs[sorted_], ends)
        return batch.split(results)

    def _computed(
        self, layer: int, inputs: torch.Tensor, ends: NDArray[np.int64]
    ) -> torch.Tensor:
        """Of pairs in the order of slots; those of slot i end at `ends[i]`.

        Shapes: [num_pairs, hidden_size], [num_slots]; gives float32 in this process's memory.
        """
        w13, w2 = self._weights.w13[layer], self._weights.w2[layer]
        offsets = torch.from_numpy(ends.astype(np.int32)).to(w13.device)
        both = F.grouped_mm(inputs.to(w13.device), w13.transpose(1, 2), offs=offsets)
        gate, up = both.float().chunk(2, dim=1)
        between = (F.silu(gate) * up).to(inputs.dtype)
        return F.grouped_mm(between, w2.transpose(1, 2), offs=offsets).float().cpu()

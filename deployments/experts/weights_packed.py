"""Weights of slots in the form of vLLM's CPU kernel.

Both sizes are rounded up to multiples of 32 with zeros, which change no result: a slot
takes `3 * hidden * intermediate * bytes of a number`, of the rounded sizes.

Worked example: an expert of 576 x 64 in bfloat16 takes 3 * 576 * 64 * 2 = 221,184 bytes;
so does one of 570 x 50.
"""

import torch

from deployments.experts.checkpoint import tensors_of
from deployments.experts.kernel_native import PackedExperts, choose_isa, pack
from deployments.experts.weights import rounded_size
from experts.checkpoint.types import ExpertStrips
from experts.types import ModelShape


class PackedWeights:
    """A `Storage` for the fused kernel."""

    def __init__(self, shape: ModelShape, num_slots: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.hidden_size = rounded_size(shape.hidden_size)
        self._inner = rounded_size(shape.intermediate_size)
        hidden, inner = self.hidden_size, self._inner
        self._w13 = torch.empty(shape.num_layers, num_slots, 2 * inner, hidden, dtype=dtype)
        self._w2 = torch.empty(shape.num_layers, num_slots, hidden, inner, dtype=dtype)
        self._isa = choose_isa(dtype)
        self._layers = [
            PackedExperts(w13, w2, self._isa)
            for w13, w2 in zip(self._w13, self._w2, strict=True)
        ]

    @property
    def bytes_per_slot(self) -> int:
        """Of one layer."""
        return int(3 * self.hidden_size * self._inner * self.dtype.itemsize)

    def layer(self, layer: int) -> PackedExperts:
        """All slots of a layer; those that are empty hold anything."""
        return self._layers[layer]

    def write(self, layer: int, slot: int, strips: ExpertStrips) -> None:
        """See `Storage`."""
        gate, up, down = tensors_of(strips)
        w13, w2 = self._w13[layer, slot], self._w2[layer, slot]
        self._write(gate, w13[: self._inner])
        self._write(up, w13[self._inner :])
        self._write(down, w2)

    def _write(self, weight: torch.Tensor, packed: torch.Tensor) -> None:
        if weight.shape != packed.shape or weight.dtype != packed.dtype:
            whole = torch.zeros_like(packed)
            whole[: weight.shape[0], : weight.shape[1]] = weight
            weight = whole
        pack(weight, packed, self._isa)

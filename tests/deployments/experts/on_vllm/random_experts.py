"""Random experts of any shape, and slots that are filled with them."""

from dataclasses import dataclass

import numpy as np
import torch

from deployments.experts.kernel import PairRequest
from deployments.experts.kernel_fused import FusedKernel
from deployments.experts.kernel_native import PackedExperts, choose_isa, pack
from deployments.experts.rows import as_numpy
from deployments.experts.weights import ExpertSlots, rounded_size
from deployments.experts.weights_packed import PackedWeights
from experts.checkpoint.types import NUMPY_DTYPES, Dtype, ExpertStrips
from experts.types import ModelShape

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, eq=False)
class RandomExperts:
    """An `ExpertReader` of normal numbers, which keep results near 1."""

    w13: torch.Tensor  # [num_layers, num_experts, 2 * intermediate_size, hidden_size]
    w2: torch.Tensor  # [num_layers, num_experts, hidden_size, intermediate_size]
    dtype: Dtype

    @classmethod
    def of(cls, shape: ModelShape, dtype: Dtype, seed: int = 0) -> "RandomExperts":
        random = torch.Generator().manual_seed(seed)
        hidden, inner = shape.hidden_size, shape.intermediate_size
        count = (shape.num_layers, shape.num_experts)
        w13 = torch.randn(*count, 2 * inner, hidden, generator=random) / hidden**0.5
        w2 = torch.randn(*count, hidden, inner, generator=random) / inner**0.5
        return cls(w13.to(DTYPES[dtype]), w2.to(DTYPES[dtype]), dtype)

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        gate, up = self.w13[layer, expert].chunk(2)
        down = self.w2[layer, expert]
        bits = torch.uint16 if self.dtype == "bfloat16" else DTYPES[self.dtype]
        parts = [part.view(bits).numpy() for part in (gate, up, down)]
        assert all(part.dtype == NUMPY_DTYPES[self.dtype] for part in parts)
        return ExpertStrips(parts[0], parts[1], parts[2], self.dtype)

    def packed(self, layer: int) -> PackedExperts:
        """All experts of a layer, rounded up and packed as vLLM's layer does it: whole."""
        _, count, hidden, inner = self.w2.shape
        dtype, to = self.w2.dtype, rounded_size
        w13 = torch.zeros(count, 2 * to(inner), to(hidden), dtype=dtype)
        w2 = torch.zeros(count, to(hidden), to(inner), dtype=dtype)
        w13[:, :inner, :hidden] = self.w13[layer, :, :inner]
        w13[:, to(inner) : to(inner) + inner, :hidden] = self.w13[layer, :, inner:]
        w2[:, :hidden, :inner] = self.w2[layer]
        experts = PackedExperts(torch.empty_like(w13), torch.empty_like(w2), choose_isa(dtype))
        for expert in range(count):
            pack(w13[expert], experts.w13[expert], experts.isa)
            pack(w2[expert], experts.w2[expert], experts.isa)
        return experts


def fused_kernel(
    shape: ModelShape, experts: RandomExperts, slot_to_expert: list[int]
) -> tuple[FusedKernel, ExpertSlots]:
    """A host that holds these experts, in every layer."""
    weights = PackedWeights(shape, len(slot_to_expert), experts.w2.dtype)
    slots = ExpertSlots(shape, len(slot_to_expert), weights)
    for layer in range(shape.num_layers):
        for slot, expert in enumerate(slot_to_expert):
            slots.fill(layer, slot, expert, experts)
            slots.check_invariants()
    return FusedKernel(slots, weights), slots


def request(rows: torch.Tensor, pairs: list[tuple[int, int]]) -> PairRequest:
    """Pairs of (row, slot)."""
    found = np.array(pairs, np.int32).reshape(len(pairs), 2)
    return PairRequest(as_numpy(rows), found[:, 0].copy(), found[:, 1].copy())

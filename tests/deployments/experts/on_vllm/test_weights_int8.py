"""8-bit weights: how far off, and how small."""

import numpy as np
import pytest
import torch

from deployments.experts.kernel_int8 import Int8Kernel
from deployments.experts.kernel_torch import PlainWeights, TorchKernel
from deployments.experts.weights import ExpertSlots
from deployments.experts.weights_int8 import Int8Weight, Int8Weights
from experts.types import ModelShape
from tests.deployments.experts.on_vllm.random_experts import RandomExperts, request

pytestmark = pytest.mark.model


def test_the_worked_example_of_the_module() -> None:
    found = Int8Weight.of(torch.tensor([[0.5, -1.27, 0.004], [0.0, 0.0, 0.0]]))
    assert found.numbers.tolist() == [[50, -127, 0], [0, 0, 0]]
    assert found.scales.tolist() == [torch.tensor(0.01).bfloat16().item(), 0.0]
    assert Int8Weights(ModelShape(1, 1, 1, 576, 64), 1).bytes_per_slot == 112_000


def test_no_weight_is_off_by_more_than_its_rows_scale() -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    found = Int8Weight.of(weight)
    off = (found.numbers * found.scales.float()[:, None] - weight).abs()
    assert (off <= found.scales.float()[:, None] * 0.51 + weight.abs() * 2**-8).all()


@pytest.mark.parametrize("sizes", [(64, 96), (40, 50), (33, 7), (576, 64)])
def test_results_are_off_by_two_hundredths(sizes: tuple[int, int]) -> None:
    shape = ModelShape(2, 4, 2, *sizes)
    experts = RandomExperts.of(shape, "bfloat16")
    plain, small = PlainWeights(shape, 3, torch.bfloat16), Int8Weights(shape, 3)
    plain_slots, small_slots = ExpertSlots(shape, 3, plain), ExpertSlots(shape, 3, small)
    for layer in range(2):
        for slot, expert in enumerate([3, 0, 2]):
            plain_slots.fill(layer, slot, expert, experts)
            small_slots.fill(layer, slot, expert, experts)
    exact, kernel = TorchKernel(plain_slots, plain), Int8Kernel(small_slots, small)
    rows = torch.randn(9, sizes[0], generator=torch.Generator().manual_seed(1)).bfloat16()
    asked = [
        request(rows[:5], [(row, row % 3) for row in range(5)]),
        request(rows[5:], [(row, 2 - row % 3) for row in range(4)]),
    ]
    for layer in range(2):
        pairs = zip(kernel.compute(layer, asked), exact.compute(layer, asked), strict=True)
        for found, expected in pairs:
            off = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
            print(f"{sizes}: {off:.4f} off")
            assert found.dtype == np.float32
            assert 0 < off < 0.025
    assert not kernel.is_exact
    assert small.bytes_per_slot == _rounded_bytes(*sizes)


def _rounded_bytes(hidden: int, inner: int) -> int:
    hidden, inner = -(-hidden // 32) * 32, -(-inner // 32) * 32
    return 3 * hidden * inner + 2 * (2 * inner + hidden)

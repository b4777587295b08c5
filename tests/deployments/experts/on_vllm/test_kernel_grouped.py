"""The kernel of GPU hosts, by torch's own products for CPUs."""

import numpy as np
import pytest
import torch

from deployments.experts.kernel_grouped import GroupedKernel, takes
from deployments.experts.kernel_torch import PlainWeights, TorchKernel
from deployments.experts.weights import ExpertSlots, StaleSlotError
from experts.types import ModelShape
from tests.deployments.experts.on_vllm.random_experts import RandomExperts, request

pytestmark = pytest.mark.model

SHAPE = ModelShape(num_layers=1, num_experts=6, top_k=2, hidden_size=64, intermediate_size=40)


def kernels(device: str = "cpu") -> tuple[GroupedKernel, TorchKernel, ExpertSlots]:
    """Two over the same weights: expert i is in slot i, slot 5 is empty."""
    experts = RandomExperts.of(SHAPE, "bfloat16")
    weights = PlainWeights(SHAPE, 6, torch.bfloat16, device)
    slots = ExpertSlots(SHAPE, 6, weights)
    for slot in range(5):
        slots.fill(0, slot, slot, experts)
    return GroupedKernel(slots, weights), TorchKernel(slots, weights), slots


def rows(count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randn(count, SHAPE.hidden_size, generator=random).bfloat16()


@pytest.mark.parametrize("num_rows", [1, 2, 17, 200])
def test_it_computes_what_one_expert_after_the_other_gives(num_rows: int) -> None:
    grouped, plain, _ = kernels()
    dice = np.random.default_rng(num_rows)
    asked = [
        request(rows(num_rows), [(r, s) for r in range(num_rows) for s in dice.choice(5, 2)]),
        request(rows(1), [(0, 4)]),
    ]
    found, expected = grouped.compute(0, asked), plain.compute(0, asked)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == np.float32
        off = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
        assert off < 0.01  # bfloat16 has 8 bits, and is rounded to twice more


def test_pairs_come_back_in_the_order_in_which_they_were_asked() -> None:
    grouped, _, _ = kernels()
    pairs = [(0, 4), (1, 0), (0, 2), (1, 4), (0, 0)]
    (found,) = grouped.compute(0, [request(rows(2), pairs)])
    for pair, result in zip(pairs, found, strict=True):
        (alone,) = grouped.compute(0, [request(rows(2), [pair])])
        np.testing.assert_allclose(alone[0], result, rtol=0.02, atol=1e-3)


def test_nothing_asked_is_nothing_computed() -> None:
    grouped, _, _ = kernels()
    (found,) = grouped.compute(0, [request(rows(2), [])])
    assert found.shape == (0, SHAPE.hidden_size)


@pytest.mark.parametrize("slot", [5, 6, -1])
def test_a_slot_without_an_expert_is_refused(slot: int) -> None:
    grouped, _, slots = kernels()
    with pytest.raises(StaleSlotError):
        grouped.compute(0, [request(rows(1), [(0, slot)])])
    assert len(grouped.compute(0, [request(rows(1), [(0, 1)])])[0]) == 1
    slots.check_invariants()


@pytest.mark.parametrize(
    ("hidden_size", "dtype", "can"),
    [(64, torch.bfloat16, True), (60, torch.bfloat16, False), (64, torch.float32, False)],
)
def test_it_takes_what_torch_has_products_for(
    hidden_size: int, dtype: torch.dtype, can: bool
) -> None:
    assert takes(ModelShape(1, 2, 1, hidden_size, 40), dtype) is can


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_computes_what_a_cpu_does() -> None:
    (on_gpu, one_by_one, _), (on_cpu, _, _) = kernels("cuda"), kernels()
    asked = [request(rows(64), [(r, (r * 3 + i) % 5) for r in range(64) for i in (0, 1)])]
    (expected,) = on_cpu.compute(0, asked)
    for kernel in (on_gpu, one_by_one):
        (found,) = kernel.compute(0, asked)
        off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert off < 0.01

"""Experts computed pair by pair, on two hosts, then combined: vLLM's layer, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments.experts import kernel_scratch
from deployments.experts.kernel_combine import combined
from deployments.experts.kernel_fused import FusedKernel
from deployments.experts.kernel_native import run, running
from deployments.experts.kernel_rounding import write_rounded
from deployments.experts.kernel_scratch import (
    ScratchLayout,
    bfloat16_rounding,
    has_readable_results,
    scratch_layout,
)
from deployments.experts.kernel_torch import PlainWeights, TorchKernel
from deployments.experts.weights import ExpertSlots, StaleSlotError
from experts.checkpoint.types import Dtype
from experts.types import ModelShape
from tests.deployments.experts.on_vllm.random_experts import (
    RandomExperts,
    fused_kernel,
    request,
)
from tests.reference.expert_kernel import expert_result

pytestmark = pytest.mark.model

# hidden and intermediate size, experts, top-k; the last as carved from SmolLM2.
SHAPES = [(32, 32, 2, 1), (64, 96, 8, 2), (40, 50, 4, 4), (96, 31, 5, 3), (576, 64, 16, 12)]


def shape_of(hidden: int, inner: int, num_experts: int, top_k: int) -> ModelShape:
    return ModelShape(1, num_experts, top_k, hidden, inner)


def gated(
    shape: ModelShape, num_tokens: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, gate weights and experts of random tokens."""
    random = torch.Generator().manual_seed(num_tokens)
    rows = torch.randn(num_tokens, shape.hidden_size, generator=random).to(dtype)
    logits = torch.randn(num_tokens, shape.num_experts, generator=random)
    weights, ids = logits.softmax(-1).topk(shape.top_k)
    return rows, weights.contiguous(), ids.int().contiguous()


def in_engine(
    experts: RandomExperts, rows: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    packed = experts.packed(0)
    missing = packed.w2.shape[1] - rows.shape[1]
    padded = torch.nn.functional.pad(rows, (0, missing))
    with running:
        return run(packed, padded, weights, ids)[:, : rows.shape[1]]


def on_two_hosts(
    shape: ModelShape, experts: RandomExperts, rows: torch.Tensor, ids: torch.Tensor
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Results of all pairs: even experts on a host, in descending slots, odd on the other."""
    results = np.full((ids.numel(), shape.hidden_size), np.nan, np.float32)
    for parity in (0, 1):
        held = [e for e in range(shape.num_experts) if e % 2 == parity][::-1]
        kernel, _ = fused_kernel(shape, experts, held)
        pairs = [
            (place // shape.top_k, held.index(expert), place)
            for place, expert in enumerate(ids.flatten().tolist())
            if expert % 2 == parity
        ]
        asked = request(rows, [(row, slot) for row, slot, _ in pairs])
        (found,) = kernel.compute(0, [asked])
        results[[place for _, _, place in pairs]] = found
    return results


def added_up(
    results: NDArray[np.float32],
    weights: torch.Tensor,
    pairs: NDArray[np.int32],
    dtype: torch.dtype,
) -> torch.Tensor:
    """As an engine does it that has asked hosts."""
    rounding = bfloat16_rounding()
    assert rounding is not None
    out = torch.empty(len(pairs), results.shape[1], dtype=dtype)
    write_rounded(combined(results, weights.numpy(), pairs), out, rounding)
    return out


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 33])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("sizes", SHAPES)
def test_pairs_of_two_hosts_combine_to_the_bits_of_the_engines_own_layer(
    sizes: tuple[int, int, int, int], dtype: Dtype, num_tokens: int
) -> None:
    shape = shape_of(*sizes)
    experts = RandomExperts.of(shape, dtype)
    rows, weights, ids = gated(shape, num_tokens, experts.w2.dtype)
    results = on_two_hosts(shape, experts, rows, ids)
    pairs = np.arange(ids.numel(), dtype=np.int32).reshape(ids.shape)
    expected = in_engine(experts, rows, weights, ids)
    assert torch.equal(added_up(results, weights, pairs, expected.dtype), expected)


def test_pairs_rounded_before_they_are_combined_are_not_the_engines_bits() -> None:
    shape = shape_of(576, 64, 16, 12)
    experts = RandomExperts.of(shape, "bfloat16")
    rows, weights, ids = gated(shape, 33, torch.bfloat16)
    results = torch.from_numpy(on_two_hosts(shape, experts, rows, ids)).bfloat16().float()
    pairs = np.arange(ids.numel(), dtype=np.int32).reshape(ids.shape)
    sums = added_up(results.numpy(), weights, pairs, torch.bfloat16)
    differ = sums != in_engine(experts, rows, weights, ids)
    print(f"{differ.float().mean():.3f} of the numbers differ")
    assert 0.3 < differ.float().mean() < 0.5
    assert differ.any(1).all()


def test_results_in_float32_can_be_read_on_this_machine() -> None:
    assert has_readable_results()
    kernel, _ = fused_kernel(shape_of(32, 32, 2, 1), _experts(), [0])
    assert kernel.is_exact


def test_the_worked_example_of_the_scratch_layout() -> None:
    assert scratch_layout(2, 2, 32, 32, 2) == ScratchLayout(192, 384, 640)


def test_requests_of_several_engines_are_computed_as_if_alone() -> None:
    shape = shape_of(64, 32, 4, 2)
    experts = RandomExperts.of(shape, "bfloat16")
    kernel, _ = fused_kernel(shape, experts, [2, 0, 3])
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    requests = [
        request(rows[:2], [(0, 1), (0, 0), (1, 0)]),
        request(rows[2:], []),
        request(rows[2:], [(2, 2), (0, 1), (2, 0), (2, 2)]),
    ]
    together = kernel.compute(0, requests)
    alone = [kernel.compute(0, [one])[0] for one in requests]
    assert [found.shape for found in together] == [(3, 64), (0, 64), (4, 64)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert np.array_equal(together[2][0], together[2][3])
    assert kernel.compute(0, requests[1:2])[0].shape == (0, 64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_pairs_are_computed_in_parts(
    dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(40, 50, 4, 4)
    experts = RandomExperts.of(shape, dtype)
    kernel, _ = fused_kernel(shape, experts, [0, 1, 2, 3])
    rows, _, ids = gated(shape, 9, experts.w2.dtype)
    pairs = [(row, slot) for row, slots in enumerate(ids.tolist()) for slot in slots]
    (whole,) = kernel.compute(0, [request(rows, pairs)])
    for most in (0, 3000):
        monkeypatch.setattr(kernel_scratch, "MAX_SCRATCH_BYTES", most)
        assert np.array_equal(kernel.compute(0, [request(rows, pairs)])[0], whole)


@pytest.mark.parametrize("sizes", SHAPES)
def test_results_do_not_depend_on_the_number_of_threads(
    sizes: tuple[int, int, int, int],
) -> None:
    shape = shape_of(*sizes)
    experts = RandomExperts.of(shape, "bfloat16")
    rows, _, ids = gated(shape, 9, torch.bfloat16)
    found = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        found.append(on_two_hosts(shape, experts, rows, ids).tolist())
    assert found[0] == found[1] == found[2]


def test_a_row_that_there_is_not_is_refused() -> None:
    kernel, _ = fused_kernel(shape_of(32, 32, 2, 1), _experts(), [0])
    with pytest.raises(IndexError):
        kernel.compute(0, [request(torch.ones(1, 32).bfloat16(), [(1, 0)])])


def test_a_slot_without_an_expert_is_refused_and_nothing_is_computed() -> None:
    shape = shape_of(32, 32, 2, 1)
    kernel, slots = fused_kernel(shape, _experts(), [0, 1])
    slots.clear(0, 1)
    rows = torch.ones(1, 32).bfloat16()
    with pytest.raises(StaleSlotError, match="slot 1 of layer 0 holds no expert"):
        kernel.compute(0, [request(rows, [(0, 0), (0, 1)])])
    for slot in (-1, 2):
        with pytest.raises(StaleSlotError, match="there are slots 0 to 1"):
            kernel.compute(0, [request(rows, [(0, slot)])])


def test_a_request_that_names_another_expert_than_the_slots_is_refused() -> None:
    kernel, _ = fused_kernel(shape_of(32, 32, 2, 1), _experts(), [1, 0])
    rows = torch.ones(1, 32).bfloat16()
    checked, unchecked = request(rows, [(0, 0), (0, 1)]), request(rows, [(0, 0)])
    right = replace(checked, pair_to_expert=np.array([1, 0], np.int16))
    wrong = replace(checked, pair_to_expert=np.array([1, 1], np.int16))
    assert [len(found) for found in kernel.compute(0, [right, unchecked])] == [2, 1]
    with pytest.raises(StaleSlotError, match="slot 1 of layer 0 holds expert 0, not 1"):
        kernel.compute(0, [unchecked, wrong])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_both_kernels_agree_with_the_expert_written_out(dtype: Dtype) -> None:
    shape = shape_of(32, 20, 3, 1)
    experts = RandomExperts.of(shape, dtype)
    plain = PlainWeights(shape, 3, experts.w2.dtype)
    slots = ExpertSlots(shape, 3, plain)
    for slot in range(3):
        slots.fill(0, slot, slot, experts)
    kernels = (TorchKernel(slots, plain), fused_kernel(shape, experts, [0, 1, 2])[0])
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(1)).to(experts.w2.dtype)
    pairs = [(0, 2), (1, 0), (0, 1)]
    expected = np.stack([_written_out(experts, rows[row], slot) for row, slot in pairs])
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for kernel in kernels:
        assert isinstance(kernel, TorchKernel | FusedKernel)
        (found,) = kernel.compute(0, [request(rows, pairs)])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)
    assert not kernels[0].is_exact


def _written_out(
    experts: RandomExperts, row: torch.Tensor, expert: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    gate, up = experts.w13[0, expert].double().chunk(2)
    down = experts.w2[0, expert].double()
    return expert_result(gate.numpy(), up.numpy(), down.numpy(), row.double().numpy())


def _experts() -> RandomExperts:
    return RandomExperts.of(shape_of(32, 32, 2, 1), "bfloat16")

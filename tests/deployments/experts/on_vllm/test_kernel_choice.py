"""A host's experts, from a checkpoint to results, with each kernel."""

from pathlib import Path

import pytest
import torch

from deployments.experts import kernel_choice
from deployments.experts.kernel_choice import build_experts
from deployments.experts.kernel_fused import FusedKernel
from deployments.experts.kernel_int8 import Int8Kernel
from deployments.experts.kernel_torch import TorchKernel
from experts.checkpoint.reader import CheckpointReader
from experts.settings import Precision
from experts.types import ModelShape
from tests.deployments.experts.on_vllm.random_experts import request
from tests.experts.checkpoint.tiny_checkpoint import config, one_by_one, write_model

pytestmark = pytest.mark.model

SHAPE = ModelShape(num_layers=2, num_experts=2, top_k=1, hidden_size=4, intermediate_size=3)


@pytest.mark.parametrize(
    ("precision", "has_native", "kernel", "is_exact", "bytes_per_slot"),
    [
        ("full", True, FusedKernel, True, 3 * 32 * 32 * 4),
        ("full", False, TorchKernel, False, 3 * 4 * 3 * 4),
        ("int8", True, Int8Kernel, False, 3 * 32 * 32 + 2 * 96),
    ],
)
def test_each_kernel_computes_what_was_read_from_the_checkpoint(
    precision: Precision,
    has_native: bool,
    kernel: type,
    is_exact: bool,
    bytes_per_slot: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel_choice, "is_available", lambda: has_native)
    reader = CheckpointReader.open(write_model(tmp_path, config(), one_by_one()))
    assert reader.config.shape == SHAPE
    host = build_experts(SHAPE, 3, reader.dtype, precision)
    assert isinstance(host.kernel, kernel)
    assert (host.kernel.is_exact, host.bytes_per_slot) == (is_exact, bytes_per_slot)
    host.slots.fill(1, 2, 0, reader)
    host.slots.check_invariants()
    row = torch.tensor([[0.01, -0.02, 0.03, -0.04]])
    (found,) = host.kernel.compute(1, [request(row, [(0, 2)])])
    strips = reader.expert(1, 0)
    gate, up, down = (torch.from_numpy(part) for part in (strips.gate, strips.up, strips.down))
    expected = (torch.nn.functional.silu(row @ gate.T) * (row @ up.T)) @ down.T
    off = (torch.from_numpy(found) - expected).norm() / expected.norm()
    assert off < (0.02 if precision == "int8" else 1e-5)

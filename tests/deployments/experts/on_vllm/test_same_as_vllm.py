"""Slots are what vLLM's own layer makes of the same weights."""

from types import SimpleNamespace

import pytest
import torch

from deployments.experts.kernel_native import choose_isa
from deployments.experts.weights import ExpertSlots
from deployments.experts.weights_packed import PackedWeights
from experts.checkpoint.types import Dtype
from experts.types import ModelShape
from tests.deployments.experts.on_vllm.random_experts import DTYPES, RandomExperts

pytestmark = pytest.mark.model


@pytest.mark.parametrize("sizes", [(64, 96), (64, 50)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_slots_are_packed_as_vllms_layer_packs_its_weights(
    sizes: tuple[int, int], dtype: Dtype
) -> None:
    from vllm.model_executor.layers.fused_moe.activation import (  # noqa: PLC0415 - seconds
        MoEActivation,
    )
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import (  # noqa: PLC0415
        CPUUnquantizedExperts,
        X86CPUUnquantizedExperts,
    )
    from vllm.platforms import current_platform  # noqa: PLC0415

    current_platform.import_kernels()
    has_tiles = dtype == "bfloat16" and X86CPUUnquantizedExperts._supports_current_device()
    vllm_class = X86CPUUnquantizedExperts if has_tiles else CPUUnquantizedExperts
    assert choose_isa(DTYPES[dtype]) == vllm_class.isa

    shape = ModelShape(1, 3, 2, *sizes)
    experts = RandomExperts.of(shape, dtype)
    weights = PackedWeights(shape, 3, DTYPES[dtype])
    slots = ExpertSlots(shape, 3, weights)
    for expert in range(3):
        slots.fill(0, expert, expert, experts)

    theirs = object.__new__(vllm_class)
    theirs.moe_config = SimpleNamespace(
        intermediate_size_per_partition=sizes[1], activation=MoEActivation.SILU
    )
    layer = torch.nn.Module()
    layer.w13_weight = torch.nn.Parameter(experts.w13[0].clone(), requires_grad=False)
    layer.w2_weight = torch.nn.Parameter(experts.w2[0].clone(), requires_grad=False)
    theirs.process_weights_after_loading(layer)
    assert torch.equal(weights.layer(0).w13, layer.w13_weight)
    assert torch.equal(weights.layer(0).w2, layer.w2_weight)

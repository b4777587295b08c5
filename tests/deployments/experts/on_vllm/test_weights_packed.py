"""Memory of slots, and what is read of a real checkpoint, in either layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.experts.checkpoint import expert_weights
from deployments.experts.kernel_native import PackedExperts
from deployments.experts.weights import ExpertSlots
from deployments.experts.weights_packed import PackedWeights
from experts.checkpoint.reader import CheckpointReader
from experts.types import ModelShape
from tests.builders.moe_checkpoints import TINY_MODELS, TinyModel
from tests.deployments.experts.on_vllm.random_experts import DTYPES, RandomExperts

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("sizes", "dtype", "num_bytes"),
    [
        ((576, 64), torch.bfloat16, 221_184),
        ((570, 50), torch.bfloat16, 221_184),
        ((576, 64), torch.float32, 442_368),
        ((1024, 2048), torch.bfloat16, 12_582_912),
    ],
)
def test_a_slot_takes_the_bytes_that_are_stated(
    sizes: tuple[int, int], dtype: torch.dtype, num_bytes: int
) -> None:
    weights = PackedWeights(ModelShape(2, 8, 2, *sizes), 3, dtype)
    assert weights.bytes_per_slot == num_bytes
    taken = sum(
        weights.layer(layer).w13.nbytes + weights.layer(layer).w2.nbytes for layer in range(2)
    )
    assert taken == 2 * 3 * num_bytes


@pytest.mark.parametrize("sizes", [(64, 96), (40, 50)])
def test_a_checkpoint_of_another_dtype_is_converted(sizes: tuple[int, int]) -> None:
    shape = ModelShape(1, 2, 1, *sizes)
    given = RandomExperts.of(shape, "bfloat16")
    as_float = RandomExperts(given.w13.float(), given.w2.float(), "float32")
    kept = []
    for experts in (given, as_float):
        weights = PackedWeights(shape, 1, torch.float32)
        ExpertSlots(shape, 1, weights).fill(0, 0, 1, experts)
        kept.append(weights.layer(0))
    assert _equal(*kept)


def _equal(one: PackedExperts, other: PackedExperts) -> bool:
    return bool(torch.equal(one.w13, other.w13) and torch.equal(one.w2, other.w2))


@pytest.mark.parametrize("layout", ["one by one", "fused", "several files"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_experts_of_a_real_checkpoint_are_those_of_the_model(
    model: TinyModel, dtype: Any, layout: str, tmp_path: Path
) -> None:
    live = model.write(tmp_path, DTYPES[dtype], layout)
    reader = CheckpointReader.open(tmp_path)
    assert reader.config.shape == model.shape
    assert reader.config.transformer_layers == model.layers
    assert reader.dtype == dtype
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or layout != "several files"
    for number, index in enumerate(model.layers):
        experts = live.model.layers[index].mlp.experts
        for expert in range(model.shape.num_experts):
            w13, w2 = expert_weights(reader.expert(number, expert))
            assert torch.equal(w13, experts.gate_up_proj[expert])
            assert torch.equal(w2, experts.down_proj[expert])

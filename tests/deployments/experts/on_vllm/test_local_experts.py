"""Experts computed in the engine's process: the same numbers as an expert host's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.experts.in_engine import local_experts
from deployments.experts.in_engine.local_experts import LocalExperts
from deployments.experts.in_engine.ops import Rank
from deployments.experts.kernel import PairRequest
from deployments.experts.kernel_choice import build_experts
from deployments.experts.rows import as_numpy
from experts.checkpoint.reader import CheckpointReader
from tests.builders.moe_checkpoints import TINY_MODELS

pytestmark = pytest.mark.model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_slots", [1, 3, 32])
def test_results_are_those_of_an_expert_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_slots: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(local_experts, "NUM_SLOTS", num_slots)
    TINY_MODELS[0].write(tmp_path, dtype)
    checkpoint = CheckpointReader.open(tmp_path)
    shape = checkpoint.config.shape
    host = build_experts(shape, shape.num_experts, checkpoint.dtype)
    local = LocalExperts(checkpoint, checkpoint.dtype)
    for layer in range(shape.num_layers):
        for expert in range(shape.num_experts):
            host.slots.fill(layer, expert, expert, checkpoint)
    random = np.random.default_rng(0)
    for step in range(12):
        layer = step % shape.num_layers
        rows = as_numpy(torch.randn(5, shape.hidden_size).to(dtype))
        pair_to_row = random.integers(0, 5, 8, np.int32)
        experts = random.integers(0, shape.num_experts, 8, np.int32)
        [expected] = host.kernel.compute(layer, [PairRequest(rows, pair_to_row, experts)])
        found = local.compute(layer, rows, pair_to_row, experts)
        assert np.array_equal(found, expected)
        local.check_invariants()


@given(st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=200)
def test_ranks_ask_for_each_token_once(num_tokens: int, num_ranks: int) -> None:
    tokens = list(range(num_tokens))
    parts = [tokens[Rank(rank, num_ranks).part(num_tokens)] for rank in range(num_ranks)]
    assert [token for part in parts for token in part] == tokens
    assert max(map(len, parts)) - min(map(len, parts)) <= 1

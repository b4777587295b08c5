"""vLLM with its routed experts elsewhere: the same tokens, for each architecture."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.experts.in_engine.tier import TierConfig
from tests.builders.moe_checkpoints import TINY_MODELS
from tests.deployments.experts.on_vllm.greedy_program import NUM_PROMPTS

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

OPENER = "tests.reference.expert_tier:SlowTier"
FUSED = ("Qwen2Moe", "Olmoe")
"""Saved with all experts in one tensor; vLLM reads that of some architectures only."""


def said_by(engines: list[dict[str, Any]]) -> list[list[list[int]]]:
    """What each engine says. A process of its own, since vLLM binds its threads for good."""
    program = "tests.deployments.experts.on_vllm.greedy_program"
    variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", program, json.dumps(engines)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[list[list[int]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def with_tier(path: Path) -> dict[str, Any]:
    """Engine arguments; the experts are not even loaded."""
    config = TierConfig(OPENER, str(path), {})
    return {
        "model": str(path),
        "load_format": "coterie_experts",
        "additional_config": config.as_additional_config(),
    }


def test_experts_elsewhere_give_the_same_tokens(tmp_path: Path) -> None:
    paths = [tmp_path / model.name for model in TINY_MODELS]
    for model, path in zip(TINY_MODELS, paths, strict=True):
        model.write(path, layout="fused" if model.name in FUSED else "one by one")
    whole: list[dict[str, Any]] = [{"model": str(path)} for path in paths]
    said = said_by(whole + [with_tier(path) for path in paths])
    expected = dict(zip(paths, said[: len(paths)], strict=True))
    for answers in expected.values():
        assert len({tuple(answer) for answer in answers}) > NUM_PROMPTS / 2
    assert dict(zip(paths, said[len(paths) :], strict=True)) == expected

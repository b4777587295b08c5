"""vLLM with its routed experts on expert hosts: the same tokens, for each architecture."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.builders.expert_tier import HostInThread, LocalTier, local_tier
from tests.builders.moe_checkpoints import TINY_MODELS, TinyModel
from tests.deployments.experts.on_vllm.greedy_program import NUM_PROMPTS

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(400)]

FUSED = ("Qwen2Moe", "Olmoe")
"""Saved with all experts in one tensor; vLLM reads that of some architectures only."""

Said = list[list[int]]


def said_by(engines: list[dict[str, Any]]) -> list[Said]:
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
    found: list[Said] = json.loads(done.stdout.splitlines()[-1])
    return found


def whole(path: Path) -> dict[str, Any]:
    """An engine that has its experts itself."""
    return {"arguments": {"model": str(path)}, "environment": {}}


def tiered(tier: LocalTier, overlap_shared: bool) -> dict[str, Any]:
    """An engine whose experts are not even loaded."""
    arguments = tier.engine_arguments(overlap_shared=overlap_shared)
    return {"arguments": arguments, "environment": tier.environment}


def compiled_ranks(engine: dict[str, Any]) -> dict[str, Any]:
    """The same engine, compiled, with two tensor-parallel ranks that share the tokens out."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        "arguments": engine["arguments"] | {"tensor_parallel_size": 2, "enforce_eager": False},
        "environment": engine["environment"]
        | {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}"},
    }


def written(model: TinyModel, folder: Path) -> Path:
    path = folder / model.name
    model.write(path, layout="fused" if model.name in FUSED else "one by one")
    return path


def test_experts_on_hosts_give_the_same_tokens(tmp_path: Path) -> None:
    paths = [written(model, tmp_path) for model in TINY_MODELS]
    with ExitStack() as stack:
        tiers = [
            stack.enter_context(local_tier(path, num_hosts=2, num_slots=3, kind=HostInThread))
            for path in paths
        ]
        # Of three models with a shared expert it waits its turn in one.
        hosted = [tiered(tier, overlap_shared=tier is not tiers[-1]) for tier in tiers]
        # Of the model with a shared expert.
        engines = [*map(whole, paths), *hosted, compiled_ranks(hosted[1])]
        *said, said_by_ranks = said_by(engines)
        reports = [tier.director.view().reports for tier in tiers]
    expected = dict(zip(paths, said[: len(paths)], strict=True))
    for answers in expected.values():
        assert len({tuple(answer) for answer in answers}) > NUM_PROMPTS / 2
    assert dict(zip(paths, said[len(paths) :], strict=True)) == expected
    assert said_by_ranks == expected[paths[1]]
    for hosts in reports:
        assert all(host.num_requests > 0 for host in hosts)

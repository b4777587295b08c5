"""Engines on one machine that have it to themselves."""

import os
from pathlib import Path

import pytest

from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("first", "second")
SECTION = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 128,
    "kv_cache_memory_bytes": 16 * 1024**2,
}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="all engines share the one core")
def test_engines_of_one_node_are_bound_to_different_cores(
    tmp_path: Path, small_llama: str
) -> None:
    models = [{"name": name, "model": small_llama} | SECTION for name in NAMES]
    with RunningCluster(tmp_path, "cores", models=models) as cluster:
        states = cluster.status()
        first, second = (
            set(engine_core_of(states[f"engine-{name}"]["details"][0]["pid"]).cpu_affinity())
            for name in NAMES
        )
    assert first.isdisjoint(second)

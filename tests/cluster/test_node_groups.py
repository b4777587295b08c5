"""Nodes of a kind each, as `coterie manifests` makes them: who runs where, and what is lost
when a node goes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from coterie import AsyncClient
from deployments.settings import ClusterSection
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.ray_nodes import RayNodes
from tests.builders.streams import CountedStreams
from tests.builders.until import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

NAME = "nodes"
ENGINE = "engine-small"
DRAIN_S = 60
SECTION = ClusterSection(app_name=NAME, state_dir=str(STATE_DIR), num_cpus=1)  # type: ignore[arg-type]


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with RayNodes(SECTION, DRAIN_S) as started:
        yield started


def sections(model: str, num_replicas: int) -> dict[str, Any]:
    engine = {
        "name": "small",
        "model": model,
        "num_replicas": num_replicas,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 2048,
        "kv_cache_memory_bytes": 64 * 1024**2,
        "drain_timeout_s": DRAIN_S,
    }
    cluster = {"app_name": NAME, "state_dir": str(STATE_DIR), "node_groups": True}
    return {"cluster": cluster, "models": [engine]}


def node_of(pid: int, workers: dict[str, int]) -> str:
    """Whose process it is."""
    ancestors = {each.pid for each in psutil.Process(pid).parents()}
    return next((name for name, worker in workers.items() if worker in ancestors), "head")


async def test_kinds_keep_to_their_nodes_and_a_node_that_ends_takes_no_stream_along(
    nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory, small_llama: str
) -> None:
    first = nodes.add(**{ENGINE: 1})
    workers = {"gateways": nodes.add(gateway=1).pid, "first": first.pid}
    folder = tmp_path_factory.mktemp("nodes")
    with RunningCluster(folder, NAME, **sections(small_llama, 1)) as cluster:

        def homes(deployment: str) -> list[str]:
            details = cluster.status()[deployment]["details"]
            return [node_of(detail["pid"], workers) for detail in details]

        assert homes("gateway") == ["gateways"]
        assert homes(ENGINE) == ["first"]
        workers["second"] = nodes.add(**{ENGINE: 1}).pid
        client = AsyncClient(cluster.address)
        streams = CountedStreams([client] * 4, 500)
        await streams.all_have(20)
        await asyncio.to_thread(nodes.end, first)
        assert await streams.ends() == [500] * 4
        wait_until(lambda: homes(ENGINE) == ["second"], 60)
        await client.close()

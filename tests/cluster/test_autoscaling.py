"""Engines, and the nodes that they are on, come with the load and go without it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coterie import AsyncClient
from deployments.settings import ClusterSection
from tests.builders.autoscaled_nodes import AutoscaledNodes
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.streams import CountedStreams

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "scaled"
ENGINE = "engine-small"
SECTION = ClusterSection(app_name=NAME, state_dir=str(STATE_DIR), num_cpus=1)  # type: ignore[arg-type]
MODEL = {
    "name": "small",
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": 64 * 1024**2,
    "min_replicas": 0,
    "max_replicas": 2,
    "drain_timeout_s": 60,
    "autoscaling": {
        "upscale_delay_s": 0,
        "downscale_delay_s": 5,
        "downscale_to_zero_delay_s": 5,
        "look_back_period_s": 4,
    },
}


@pytest.fixture
def nodes() -> Iterator[AutoscaledNodes]:
    types = {"gateways": {"gateway": 1.0}, "engines": {ENGINE: 1.0}}
    with AutoscaledNodes(SECTION, types, max_nodes=2, idle_s=6) as started:
        yield started


async def until(condition: Callable[[], bool], timeout_s: float = 120) -> float:
    """How long that took."""
    began_s = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < began_s + timeout_s, "not within the time"
        await asyncio.sleep(0.3)
    return time.monotonic() - began_s


async def test_engines_and_their_nodes_follow_the_load_down_to_none(
    nodes: AutoscaledNodes, tmp_path_factory: pytest.TempPathFactory, small_llama: str
) -> None:
    sections: dict[str, Any] = {
        "cluster": {"app_name": NAME, "state_dir": str(STATE_DIR), "node_groups": True},
        "models": [MODEL | {"model": small_llama}],
        "admission": {"max_queue_s": 300},
    }
    folder = tmp_path_factory.mktemp("scaled")
    with RunningCluster(folder, NAME, **sections) as cluster:

        def num_engines() -> int:
            return len(cluster.status()[ENGINE]["details"])

        client = AsyncClient(cluster.address)
        expected = await client.generate_unary(
            "Once upon a time", temperature=0, max_tokens=12, timeout_s=300
        )
        # The gateway's node stays.
        await until(lambda: num_engines() == 0 and len(nodes.pids()) == 1)

        # Nobody is there: requests wait, and bring an engine and a node for it.
        asked = [
            client.generate_unary(
                "Once upon a time", temperature=0, max_tokens=12, timeout_s=300
            )
            for _ in range(3)
        ]
        answers = await asyncio.gather(*asked)
        assert [answer.text for answer in answers] == [expected.text] * 3
        assert len(nodes.pids()) == 2

        # More than one engine is to hold: another one, and another node.
        streams = CountedStreams([client] * 32, 1200)
        await until(lambda: num_engines() == 2)
        assert len(nodes.pids()) == 3
        assert await streams.ends() == [1200] * 32
        await until(lambda: num_engines() == 0 and len(nodes.pids()) == 1)
        await client.close()

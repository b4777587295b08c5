"""Ray's head and the store of its state, as the manifests have both: what outlives the head."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.kubernetes.settings import KubernetesSection, StoreSection
from deployments.kubernetes.stores import head_store
from deployments.local_cluster import free_ports
from tests.builders.ray_worker import kill_worker, start_ray
from tests.deployments.kubernetes.test_stores import PASSWORD, serving

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_external_storage_namespace": "of-this-test",
    "RAY_memory_monitor_refresh_ms": "0",
}

WRITE = """
import ray
from ray.experimental.internal_kv import _internal_kv_put
ray.init(address="{address}", namespace="n", log_to_driver=False)
_internal_kv_put(b"key", b"value")

@ray.remote(num_cpus=0, max_restarts=-1)
class Kept:
    def said(self):
        return "here"

kept = Kept.options(name="kept", lifetime="detached").remote()
print(ray.get(kept.said.remote()))
"""

READ = """
import ray
from ray.experimental.internal_kv import _internal_kv_get
ray.init(address="{address}", namespace="n", log_to_driver=False)
print(_internal_kv_get(b"key").decode())
print(ray.get(ray.get_actor("kept").said.remote(), timeout=60))
"""


@contextmanager
def head(store_port: int) -> Iterator[str]:
    """Started as KubeRay starts it, and killed with all that runs on it. Gives its address."""
    gcs, client, agent, agent_grpc, metrics = free_ports(5)
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "metrics-export-port": metrics,
        "include-dashboard": "false",
        "num-cpus": 1,
        "object-store-memory": 100 * 1024**2,
        "redis-password": PASSWORD,
    }
    store = {"RAY_REDIS_ADDRESS": f"redis://127.0.0.1:{store_port}"}
    # The sockets' paths must be short.
    with tempfile.TemporaryDirectory(prefix="coterie-", ignore_cleanup_errors=True) as place:
        leader = start_ray(
            flags,
            Path(place, "head.log"),
            *("--head", "--no-monitor", f"--temp-dir={place}"),
            environment=_ENVIRONMENT | store,
        )
        try:
            yield f"127.0.0.1:{gcs}"
        finally:
            kill_worker(leader.pid)
            leader.wait(10)


def printed(program: str, address: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program.format(address=address)],
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_head_that_is_killed_finds_its_state_again_with_the_rights_that_it_has(
    tmp_path: Path,
) -> None:
    section = StoreSection(memory="512Mi", storage="1Gi")
    with serving(head_store(KubernetesSection(), section), tmp_path) as store_port:
        with head(store_port) as address:
            assert printed(WRITE, address) == ["here"]
        with head(store_port) as address:
            assert printed(READ, address) == ["value", "here"]

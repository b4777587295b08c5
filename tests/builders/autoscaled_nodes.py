"""Ray's own autoscaler, with nodes that are processes of this machine.

Ray's fake provider does the same, but its nodes listen on all interfaces, and what starts it
ends every other Ray of the machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from deployments import local_cluster
from deployments.settings import ClusterSection
from tests.builders.ray_worker import kill_worker, start_worker

HEAD = "head"
HEAD_TYPE = "head"
_END_S = 30.0
_COMMANDS = (
    *("initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
"""Ray wants to be told of each that there is none."""
_REPOSITORY = Path(__file__).resolve().parents[2]


class LoopbackNodes(NodeProvider):  # type: ignore[misc]  # Ray is untyped here
    """Ray makes it in the process of the autoscaler, from the `provider` of its file.

    Each node that runs has a file in the provider's `folder`: its process id.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = threading.Lock()
        self._tags: dict[str, dict[str, str]] = {
            HEAD: {
                TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
                TAG_RAY_USER_NODE_TYPE: HEAD_TYPE,
                TAG_RAY_NODE_NAME: HEAD,
                TAG_RAY_NODE_STATUS: "up-to-date",
            }
        }
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._num_started = 0

    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        """Those with these tags."""
        with self._lock:
            nodes = {name: tags.items() for name, tags in self._tags.items()}
        return [name for name, tags in nodes.items() if tag_filters.items() <= tags]

    def is_running(self, node_id: str) -> bool:
        """It was started, and not ended by us."""
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        """It is not there any more."""
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        """What Ray wants to remember of it."""
        return self._tags[node_id]

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """So many more of a type."""
        for _ in range(count):
            self._start(tags, resources)

    def terminate_node(self, node_id: str) -> None:
        """Ray has drained it before."""
        with self._lock:
            del self._tags[node_id]
            worker = self._workers.pop(node_id)
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(_END_S)
        except subprocess.TimeoutExpired:
            kill_worker(worker.pid)
            worker.wait()
        self._file(node_id).unlink()

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Remember these too."""
        self._tags[node_id] |= tags

    def internal_ip(self, node_id: str) -> str:
        """All are here."""
        return "127.0.0.1"

    external_ip = internal_ip

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Nothing is to be set up."""
        return cluster_config

    def _start(self, tags: dict[str, str], resources: Mapping[str, float]) -> None:
        given = self.provider_config
        with self._lock:
            self._num_started += 1
            node_id = f"worker-{self._num_started}"
            worker = start_worker(
                _gcs_address(),
                {name: amount for name, amount in resources.items() if name != "CPU"},
                self._file(node_id).with_suffix(".log"),
                object_store_bytes=given["object_store_bytes"],
                drain_s=0,
                environment={
                    "RAY_CLOUD_INSTANCE_ID": node_id,
                    "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
                },
            )
            self._file(node_id).write_text(str(worker.pid))
            self._workers[node_id] = worker
            self._tags[node_id] = tags | {TAG_RAY_NODE_NAME: node_id}

    def _file(self, node_id: str) -> Path:
        return Path(self.provider_config["folder"], f"{node_id}.pid")


def _gcs_address() -> str:
    """Of the cluster whose autoscaler this process is."""
    flag = "--gcs-address="
    return next(each.removeprefix(flag) for each in sys.argv if each.startswith(flag))


class AutoscaledNodes:
    """A head whose autoscaler starts and ends nodes; `coterie up` finds it.

    `types` are resources of a node, by the type's name; there are at most `max_nodes` of each,
    and one that is idle for `idle_s` goes.
    """

    def __init__(
        self,
        section: ClusterSection,
        types: Mapping[str, Mapping[str, float]],
        max_nodes: int,
        idle_s: float,
    ) -> None:
        self._section = section
        self._types = types
        self._max_nodes = max_nodes
        self._idle_s = idle_s
        self._folder = tempfile.TemporaryDirectory(prefix="coterie-nodes-")

    def __enter__(self) -> Self:
        file = Path(self._folder.name, "autoscaling.yaml")
        file.write_text(json.dumps(self._config()))
        variables = {
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            "PYTHONPATH": str(_REPOSITORY),
        }
        local_cluster.use_auth_token(self._section)
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            local_cluster.start(self._section, file)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pid in self.pids():
            kill_worker(pid)
        head = local_cluster.find(self._section)
        if head is not None:
            head.stop()
            local_cluster.forget(self._section)
        self._folder.cleanup()

    def pids(self) -> list[int]:
        """Of the nodes that run beside the head."""
        return [int(file.read_text()) for file in Path(self._folder.name).glob("*.pid")]

    def _config(self) -> dict[str, Any]:
        types = {
            name: {
                "resources": {"CPU": 0} | dict(resources),
                "node_config": {},
                "min_workers": 0,
                "max_workers": self._max_nodes,
            }
            for name, resources in self._types.items()
        }
        head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "loopback",
            "max_workers": self._max_nodes * len(types),
            "idle_timeout_minutes": self._idle_s / 60,
            "provider": {
                "type": "external",
                "module": f"{__name__}.{LoopbackNodes.__name__}",
                "folder": self._folder.name,
                "object_store_bytes": self._section.object_store_memory_bytes,
            },
            "available_node_types": types | {HEAD_TYPE: head},
            "head_node_type": HEAD_TYPE,
            "auth": {},
            **{name: [] for name in _COMMANDS},
            "file_mounts": {},
            "cluster_synced_files": [],
        }

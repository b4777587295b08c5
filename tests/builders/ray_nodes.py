"""Several Ray nodes on one machine, as pods are several: a head, and workers with resources."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from deployments import local_cluster
from deployments.local_cluster import LocalCluster, free_ports
from deployments.settings import ClusterSection

_END_S = 60.0


class RayNodes:
    """The head is the local cluster of the section, which `coterie up` finds.

    Workers are started as KubeRay's pods are, by `ray start --block`, and end on SIGTERM.
    """

    def __init__(self, section: ClusterSection, drain_s: float) -> None:
        self._section = section
        self._drain_s = drain_s
        self._workers: list[subprocess.Popen[bytes]] = []
        self._head: LocalCluster | None = None

    def __enter__(self) -> Self:
        local_cluster.use_auth_token(self._section)
        self._head = local_cluster.start(self._section)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            self.kill(worker)
        head = local_cluster.find(self._section)
        if head is not None:
            head.stop()
            local_cluster.forget(self._section)

    def add(self, **resources: float) -> "subprocess.Popen[bytes]":
        """A worker that offers these, and no CPU. Returns when Ray runs there."""
        assert self._head is not None
        log = Path(self._head.temp_dir, f"worker-{len(self._workers)}.log")
        agent, agent_grpc, metrics = free_ports(3)
        flags = {
            "address": self._head.address,
            "node-ip-address": "127.0.0.1",
            "num-cpus": 0,
            "resources": json.dumps(resources),
            "dashboard-agent-listen-port": agent,
            "dashboard-agent-grpc-port": agent_grpc,
            "metrics-export-port": metrics,
            "object-store-memory": self._section.object_store_memory_bytes,
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        command += ["--disable-usage-stats"]
        with log.open("wb") as out:
            worker = subprocess.Popen(
                command + [f"--{key}={value}" for key, value in flags.items()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {
                    "RAY_memory_monitor_refresh_ms": "0",
                    "RAY_worker_niceness": "0",
                    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(self._drain_s),
                },
                start_new_session=True,
            )
        self._workers.append(worker)
        deadline = time.monotonic() + _END_S
        # Two that start at once take each other's sockets.
        while "Ray runtime started" not in log.read_text():
            assert worker.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return worker

    def end(self, worker: "subprocess.Popen[bytes]") -> float:
        """As a pod is ended; how many seconds it took. Raises TimeoutExpired."""
        began_s = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        worker.wait(self._drain_s + _END_S)
        return time.monotonic() - began_s

    def kill(self, worker: "subprocess.Popen[bytes]") -> None:
        """With all that runs on the node, at once: the machine is gone."""
        try:
            leader = psutil.Process(worker.pid)
        except psutil.NoSuchProcess:
            return
        leader.suspend()
        members = [*leader.children(recursive=True), leader]
        for process in members:
            process.kill()
        psutil.wait_procs(members, timeout=10)
        worker.wait(10)

"""Several Ray nodes on one machine, as pods are several: a head, and workers with resources."""

import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments import local_cluster
from deployments.local_cluster import LocalCluster
from deployments.settings import ClusterSection
from tests.builders.ray_worker import kill_worker, start_worker

_END_S = 60.0


class RayNodes:
    """The head is the local cluster of the section, which `coterie up` finds; workers end on
    SIGTERM as pods do, within `drain_s`. Where they are `apart`, each has a temporary directory
    of its own, so that links between them are TCP; this takes the right to mount."""

    def __init__(self, section: ClusterSection, drain_s: float, apart: bool = False) -> None:
        self._section = section
        self._drain_s = drain_s
        self._folders = ExitStack() if apart else None
        self._workers: dict[subprocess.Popen[bytes], dict[str, float]] = {}
        self._num_started = 0
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
        if self._folders is not None:
            self._folders.close()

    def add(self, **resources: float) -> "subprocess.Popen[bytes]":
        """A worker that offers these, and no CPU. Returns when Ray runs there."""
        assert self._head is not None
        folder = None
        if self._folders is not None:
            made = tempfile.TemporaryDirectory(prefix="coterie-node-")
            folder = Path(self._folders.enter_context(made))
        worker = start_worker(
            self._head.address,
            resources,
            Path(self._head.temp_dir, f"worker-{self._num_started}.log"),
            object_store_bytes=self._section.object_store_memory_bytes,
            drain_s=self._drain_s,
            own_folder=folder,
        )
        self._num_started += 1
        self._workers[worker] = resources
        return worker

    def replace_ended(self) -> None:
        """A new one for each that is gone, with its resources."""
        for worker in [each for each in self._workers if each.poll() is not None]:
            self.add(**self._workers.pop(worker))

    def end(self, worker: "subprocess.Popen[bytes]") -> float:
        """As a pod is ended; how many seconds it took. Raises TimeoutExpired."""
        began_s = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        worker.wait(self._drain_s + _END_S)
        return time.monotonic() - began_s

    def kill(self, worker: "subprocess.Popen[bytes]") -> None:
        """With all that runs on the node, at once: the machine is gone."""
        kill_worker(worker.pid)
        worker.wait(10)

"""An expert host: holds copies of experts, and computes what engines ask of them."""

import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Self

from deployments.experts.host.filler import Filler
from deployments.experts.host.loop import HostLoop
from deployments.experts.host.settings import HostSettings
from deployments.experts.host.threads import compute_with
from deployments.experts.kernel_choice import HostExperts, build_experts
from deployments.experts.weights import ExpertReader
from experts.checkpoint.reader import CheckpointReader
from experts.host_report import HostReport
from experts.transport.hub import Hub
from experts.transport.link import Identity
from experts.types import HostId, ModelShape
from infra.errors import ConfigError

log = logging.getLogger(__name__)


class ExpertHost:
    """One host, from `open` to `close`. `run` serves; the others are for any thread."""

    def __init__(
        self,
        host: HostId,
        hub: Hub,
        experts: HostExperts,
        reader: ExpertReader,
        settings: HostSettings,
    ) -> None:
        """The hub becomes the host's."""
        self.host = host
        self.addresses = _listened(host, hub, settings)
        """As they are dialled; the best first."""
        self._hub = hub
        self._num_threads = settings.num_threads
        self._cores = settings.cores
        self._guard = threading.RLock()
        """Of what follows, and of the hub's life. A signal's handler may take it twice."""
        self._is_running = self._is_closing = self._is_closed = False
        self._is_leaving = False
        self._failure: BaseException | None = None
        self._filler = Filler(experts.slots, reader, self._wake)
        self._loop = HostLoop(
            host, hub, experts, self._filler, settings, lambda: self._is_leaving
        )

    @classmethod
    def open(cls, model_path: Path, settings: HostSettings) -> Self:
        """A host of the model in this folder, with empty slots; peers may dial it.

        Raises:
            ConfigError: the model cannot be served so, or an address cannot be had.
        """
        settings.check()
        reader = CheckpointReader.open(model_path)
        experts = _built(reader.config.shape, settings)
        return cls.of(reader.digest, experts, reader, settings)

    @classmethod
    def of(
        cls,
        model: str,
        experts: HostExperts,
        reader: ExpertReader,
        settings: HostSettings,
    ) -> Self:
        """The same for experts that come from elsewhere than from the model's folder.

        `model` is its digest.
        """
        host = HostId(f"host-{uuid.uuid4().hex[:16]}")
        hub = Hub(Identity(host, model), settings.link, settings.secret)
        try:
            return cls(host, hub, experts, reader, settings)
        except BaseException:
            hub.close()
            raise

    @property
    def failure(self) -> BaseException | None:
        """What has ended `run`, if it was not `close`."""
        return self._failure

    @property
    def turn_s(self) -> float:
        """How long its loop has been in the turn that it is in: far less than a second of
        work after a second of waiting at most, or it hangs."""
        return time.monotonic() - self._loop.turned_s

    @property
    def is_empty(self) -> bool:
        """Whether it is leaving, and has nothing more to do or to keep."""
        return self._is_leaving and self._loop.is_idle

    def report(self) -> HostReport:
        """Its means are about the time since the last call; directors' are not counted."""
        return self._loop.reporter.report(None)

    def leave(self) -> None:
        """Report from now on that the copies should be moved away. It goes on serving."""
        self._is_leaving = True

    def close(self) -> None:
        """Have `run` return, after the turn that it is in; peers are told."""
        with self._guard:
            self._is_closing = True
            if self._is_running:
                self._hub.wake()
                return
        self._give_back()

    def run(self) -> None:
        """Serve until `close`; the calling thread is the one that computes. Once."""
        with self._guard:
            assert not self._is_running, "run is called once"
            if self._is_closing:
                return
            self._is_running = True
        try:
            if self._cores is not None:
                # The filler's thread may run where the one may that starts it.
                os.sched_setaffinity(0, self._cores)
            self._filler.start()
            compute_with(self._num_threads, self._cores)
            while not self._is_closing:
                self._loop.turn()
        except Exception as error:  # the thread's boundary; a health check reads it
            log.exception("the expert host %s has failed", self.host)
            self._failure = error
        finally:
            self._give_back()

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other. Not while it runs."""
        assert self._is_closing or not self._is_closed
        assert not (self._is_running and self._is_closed)
        self._loop.check_invariants()

    def _wake(self) -> None:
        with self._guard:
            if self._is_running:
                self._hub.wake()

    def _give_back(self) -> None:
        with self._guard:
            self._is_running, self._is_closing = False, True
            if self._is_closed:
                return
            self._is_closed = True
            self._hub.close()
        self._filler.close()


def _built(shape: ModelShape, settings: HostSettings) -> HostExperts:
    try:
        return build_experts(
            shape, settings.num_slots, settings.dtype, settings.precision, settings.device
        )
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"no memory for {settings.num_slots} slots in each of {shape.num_layers} layers: "
            f"{error}; give the host fewer slots"
        ) from error


def _listened(host: HostId, hub: Hub, settings: HostSettings) -> tuple[str, ...]:
    near = hub.listen(f"unix://{settings.unix_folder}/{host}")
    if settings.tcp_host is None:
        return (near,)
    name = f"[{settings.tcp_host}]" if ":" in settings.tcp_host else settings.tcp_host
    return near, hub.listen(f"tcp://{name}:0")

"""An expert host: holds copies of experts, and computes what engines ask of them."""

import uuid
from pathlib import Path
from typing import Self

from deployments.experts.host.filler import Filler
from deployments.experts.host.loop import HostLoop
from deployments.experts.host.settings import HostSettings
from deployments.experts.kernel_choice import HostExperts, build_experts
from deployments.experts.weights import ExpertReader
from deployments.link_hosts.runner import HostRunner, Threads, listened, turn_s
from experts.checkpoint.reader import CheckpointReader
from experts.host_report import HostReport
from experts.transport.hub import Hub
from experts.transport.link import Identity
from experts.types import HostId, ModelShape
from infra.errors import ConfigError


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
        self.addresses = listened(host, hub, settings.unix_folder, settings.tcp_host)
        """As they are dialled; the best first."""
        self._is_leaving = False
        filler = Filler(experts.slots, reader, self._wake)
        threads = Threads(settings.num_threads, settings.cores)
        self._runner = HostRunner(host, hub, threads, filler.start, filler.close)
        self._loop = HostLoop(host, hub, experts, filler, settings, lambda: self._is_leaving)

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
        return self._runner.failure

    @property
    def turn_s(self) -> float:
        """See `runner.turn_s`."""
        return turn_s(self._loop)

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
        self._runner.close()

    def run(self) -> None:
        """Serve until `close`; the calling thread is the one that computes. Once."""
        self._runner.run(self._loop)

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other. Not while it runs."""
        self._runner.check_invariants()
        self._loop.check_invariants()

    def _wake(self) -> None:
        self._runner.wake()


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

"""An expert host: holds copies of experts, and computes what engines ask of them."""

import uuid
from pathlib import Path
from typing import Self

from deployments.experts.host.filler import Filler
from deployments.experts.host.loop import HostLoop
from deployments.experts.host.settings import HostSettings
from deployments.experts.kernel_choice import HostExperts, build_experts
from deployments.experts.weights import ExpertReader
from deployments.link_hosts.host import LinkHost
from experts.checkpoint.reader import CheckpointReader
from experts.host_report import HostReport
from experts.transport.hub import Hub
from experts.transport.link import Identity
from experts.types import HostId, ModelShape
from infra.errors import ConfigError


class ExpertHost(LinkHost):
    """One host, from `open` to `close`."""

    def __init__(
        self,
        host: HostId,
        hub: Hub,
        experts: HostExperts,
        reader: ExpertReader,
        settings: HostSettings,
    ) -> None:
        """The hub becomes the host's."""
        super().__init__(host, hub, settings)
        self._is_leaving = False
        self._filler = Filler(experts.slots, reader, self.wake)
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
    def loop(self) -> HostLoop:
        """What is done, turn by turn."""
        return self._loop

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

    def _begin(self) -> None:
        self._filler.start()

    def _end(self) -> None:
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

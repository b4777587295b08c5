"""An expert tier without Ray: hosts in processes or threads, and a director."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from deployments.experts.director import DirectorThread
from deployments.experts.host.host import ExpertHost
from deployments.experts.host.settings import HostSettings
from deployments.experts.in_engine.plugin import ASKED_VARIABLE
from deployments.experts.tier_config import TierConfig
from deployments.experts.tier_folder import FOLDER_VARIABLE, TierFolder
from deployments.experts.waiting import WAITING_ENVIRONMENT
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import Dtype
from experts.director.types import DirectorSettings, DirectorView
from experts.directory import HostCard
from experts.settings import RebalanceSection
from router.dispatch.settings import DispatchSection
from tests.builders.host_process import HostProcess

_LIMIT_S = 60.0
_SECRET = "a secret of 32 bytes, more or less"


class RunningHost(Protocol):
    """One expert host."""

    card: HostCard

    def close(self) -> None:
        """End it, and see that it ended well."""


class HostInThread:
    """For tests that need many, and none of them dead."""

    def __init__(self, model: Path, settings: HostSettings) -> None:
        self._host = ExpertHost.open(model, settings)
        self.card = HostCard(self._host.host, self._host.addresses)
        self._thread = threading.Thread(target=self._host.run)
        self._thread.start()

    def close(self) -> None:
        """See `RunningHost`."""
        self._host.close()
        self._thread.join()
        assert self._host.failure is None


class ExpertHostProcess(HostProcess):
    """One that can be killed and stopped."""

    def __init__(self, model: Path, settings: HostSettings) -> None:
        fields = asdict(settings) | {
            "model_path": str(model),
            "unix_folder": str(settings.unix_folder),
        }
        super().__init__("deployments.experts.host", fields)


HostKind = Callable[[Path, HostSettings], RunningHost]


@dataclass
class LocalTier:
    """Hosts of one model, on this machine."""

    model: Path
    folder: TierFolder
    settings: HostSettings
    director: DirectorThread
    kind: HostKind
    hosts: list[Any] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """For the processes of an engine that is to use these hosts."""
        where = {ASKED_VARIABLE: "1", FOLDER_VARIABLE: str(self.folder.path)}
        return where | WAITING_ENVIRONMENT

    def engine_arguments(self, **dispatch: Any) -> dict[str, Any]:
        """For an engine that is to use these hosts."""
        section = DispatchSection.model_validate(dispatch)
        config = TierConfig(str(self.model), self.settings.dtype, section)
        return {"model": str(self.model)} | config.engine_arguments()

    def start(self, count: int = 1) -> None:
        """More hosts; they are filled when the director has seen them."""
        for _ in range(count):
            self.hosts.append(self.kind(self.model, self.settings))
        self.tell()

    def tell(self) -> None:
        """Tell engines and director who is there, as the cluster would."""
        cards = [host.card for host in self.hosts]
        self.folder.write_hosts(cards)
        self.director.set_hosts(cards)

    def until_settled(self) -> DirectorView:
        """Wait until every expert has its copies."""
        return self.until(
            lambda view: (
                view.state == "settled"
                and set(view.map.hosts) == {host.card.host for host in self.hosts}
                and view.map.is_covering
            )
        )

    def until(self, holds: Callable[[DirectorView], bool]) -> DirectorView:
        """Wait, bounded, until what the director knows is so."""
        deadline = time.monotonic() + _LIMIT_S
        while not holds(view := self.director.view()):
            assert self.director.failure is None
            assert time.monotonic() < deadline, (view.state, view.message)
            time.sleep(0.02)
        return view

    def close(self) -> None:
        """End all hosts."""
        self.director.close()
        while self.hosts:
            self.hosts.pop().close()


@contextlib.contextmanager
def local_tier(
    model: Path,
    num_hosts: int,
    num_slots: int,
    dtype: Dtype = "float32",
    rebalance: RebalanceSection | None = None,
    num_threads: int = 1,
    cores: Sequence[int] | None = None,
    kind: HostKind = ExpertHostProcess,
) -> Iterator[LocalTier]:
    """A tier whose experts all have a copy when the block begins."""
    checkpoint = CheckpointReader.open(model)
    settings = DirectorSettings(rebalance or RebalanceSection(), num_hosts)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="tier-") as name:
        folder = TierFolder(Path(name))
        folder.write_secret(_SECRET)
        host_settings = HostSettings(
            num_slots=num_slots,
            dtype=dtype,
            unix_folder=folder.path,
            num_threads=num_threads,
            cores=cores,
        )
        director = DirectorThread(checkpoint.config.shape, checkpoint.digest, settings, _SECRET)
        tier = LocalTier(model, folder, host_settings, director, kind)
        director.start()
        try:
            tier.start(num_hosts)
            tier.until_settled()
            yield tier
        finally:
            tier.close()

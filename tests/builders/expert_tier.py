"""An expert tier without Ray: hosts as processes of their own, and a director."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.experts.director import DirectorThread
from deployments.experts.in_engine.hosted import HostedOptions
from deployments.experts.in_engine.tier import TierConfig
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import Dtype
from experts.director.types import DirectorSettings, DirectorView
from experts.directory import HostCard, write_directory
from experts.settings import RebalanceSection
from router.dispatch.settings import DispatchSection

OPENER = "deployments.experts.in_engine.hosted:open_hosted_tier"
_LIMIT_S = 60.0


@dataclass(frozen=True)
class HostProcess:
    """One expert host."""

    card: HostCard
    process: subprocess.Popen[str]


@dataclass
class LocalTier:
    """Hosts of one model, on this machine."""

    model: Path
    folder: Path
    num_slots: int
    dtype: Dtype
    director: DirectorThread
    num_threads: int = 1
    hosts: list[HostProcess] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """The file by which engines know the hosts."""
        return self.folder / "hosts"

    def tier_config(self, **dispatch: Any) -> TierConfig:
        """For an engine that is to use these hosts."""
        section = DispatchSection.model_validate(dispatch)
        options = HostedOptions(self.directory, None, self.dtype, section)
        return TierConfig(OPENER, str(self.model), options.as_options())

    def start(self, count: int = 1) -> None:
        """More hosts; they are filled when the director has seen them."""
        for _ in range(count):
            self.hosts.append(self._started())
        self.tell()

    def kill(self, which: int, signal_number: int = signal.SIGKILL) -> None:
        """Send a host a signal; with SIGKILL it is gone from the directory as well, some
        time later, as it would be where Ray finds out."""
        self.hosts[which].process.send_signal(signal_number)
        if signal_number == signal.SIGKILL:
            self.hosts.pop(which).process.wait()

    def tell(self) -> None:
        """Write down who is there, for engines and director."""
        cards = [host.card for host in self.hosts]
        write_directory(self.directory, cards)
        self.director.set_hosts(cards)

    def until_settled(self) -> DirectorView:
        """Wait until every expert has its copies."""
        return self.until(
            lambda view: (
                view.state == "settled"
                and len(view.map.hosts) == len(self.hosts)
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
        """End all hosts, also those that are stopped."""
        self.director.close()
        for host in self.hosts:
            host.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(BrokenPipeError):
                host.process.communicate(timeout=_LIMIT_S)
            assert host.process.returncode == 0
        self.hosts.clear()

    def _started(self) -> HostProcess:
        fields = {
            "model_path": str(self.model),
            "num_slots": self.num_slots,
            "dtype": self.dtype,
            "unix_folder": str(self.folder),
            "num_threads": self.num_threads,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.experts.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(self.num_threads)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(fields) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _LIMIT_S)
        line = process.stdout.readline() if ready else ""
        if not line:
            process.kill()
            process.wait()
            raise AssertionError("the expert host did not start")
        return HostProcess(HostCard.of(json.loads(line)), process)


@contextlib.contextmanager
def local_tier(
    model: Path,
    num_hosts: int,
    num_slots: int,
    dtype: Dtype = "float32",
    rebalance: RebalanceSection | None = None,
    num_threads: int = 1,
) -> Iterator[LocalTier]:
    """A tier whose experts all have a copy when the block begins."""
    settings = DirectorSettings(rebalance or RebalanceSection(), num_hosts)
    director = DirectorThread(CheckpointReader.open(model).config, settings, None)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="tier-") as folder:
        tier = LocalTier(model, Path(folder), num_slots, dtype, director, num_threads)
        director.start()
        try:
            tier.start(num_hosts)
            tier.until_settled()
            yield tier
        finally:
            tier.close()

"""Draft hosts without Ray, each a process."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.drafts.tier_folder import FOLDER_VARIABLE
from deployments.experts.tier_folder import TierFolder
from deployments.experts.waiting import WAITING_ENVIRONMENT
from experts.directory import HostCard

_LIMIT_S = 60.0
_SECRET = "a secret of 32 bytes, more or less"


class DraftHostProcess:
    """One that can be killed and stopped."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deployments.drafts.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(fields["num_threads"])}
            | WAITING_ENVIRONMENT,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], _LIMIT_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the draft host did not start")
        self.card = HostCard.of(json.loads(line))

    def close(self) -> None:
        """End it, also where it is stopped, and see that it ended well."""
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate(timeout=_LIMIT_S)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.process.kill()
        self.process.communicate()


@dataclass
class LocalDrafts:
    """Draft hosts on this machine, for engines of one model."""

    folder: TierFolder
    fields: dict[str, Any]
    hosts: list[DraftHostProcess] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """For the process of an engine that is to ask these hosts."""
        return {FOLDER_VARIABLE: str(self.folder.path)}

    def start(self) -> DraftHostProcess:
        """One host more."""
        host = DraftHostProcess(self.fields)
        self.hosts.append(host)
        self.tell()
        return host

    def kill(self) -> None:
        """The oldest, which the cluster notices."""
        self.hosts.pop(0).kill()
        self.tell()

    def tell(self) -> None:
        """Tell engines who is there, as the cluster would."""
        self.folder.write_hosts([host.card for host in self.hosts])


@contextlib.contextmanager
def local_drafts(
    engine_model: Path,
    draft_model: Path,
    num_threads: int = 1,
    cores: Sequence[int] | None = None,
    **section: Any,
) -> Iterator[LocalDrafts]:
    """One host, which `section` describes."""
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="drafts-") as name:
        folder = TierFolder(Path(name))
        folder.write_secret(_SECRET)
        fields = {
            "engine_model": str(engine_model),
            "draft_model": str(draft_model),
            "unix_folder": name,
            "num_threads": num_threads,
            "cores": cores,
            "section": {**section, "model": str(draft_model)},
        }
        drafts = LocalDrafts(folder, fields)
        try:
            drafts.start()
            yield drafts
        finally:
            for host in drafts.hosts:
                host.close()

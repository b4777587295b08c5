"""Draft hosts without Ray, each a process."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.drafts.tier_folder import FOLDER_VARIABLE
from deployments.experts.tier_folder import TierFolder
from tests.builders.host_process import HostProcess

_SECRET = "a secret of 32 bytes, more or less"


@dataclass
class LocalDrafts:
    """Draft hosts on this machine, for engines of one model."""

    folder: TierFolder
    fields: dict[str, Any]
    hosts: list[HostProcess] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """For the process of an engine that is to ask these hosts."""
        return {FOLDER_VARIABLE: str(self.folder.path)}

    def start(self) -> HostProcess:
        """One host more."""
        host = HostProcess("deployments.drafts.host", self.fields)
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

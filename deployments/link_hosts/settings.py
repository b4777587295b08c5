"""What a host of any kind is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experts.transport.link import LinkSettings
from infra.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LinkHostSettings:
    """Of one host."""

    unix_folder: Path
    """Where engines on this node find its socket; only its owner may enter."""
    tcp_host: str | None = None
    """This node's name or address, as other nodes dial it; None where there are none."""
    secret: str | None = field(default=None, repr=False)
    """What the processes of the cluster share; links between nodes need it."""
    num_threads: int = 1
    """That compute."""
    cores: Sequence[int] | None = None
    """One for each thread, see `threads`; None: anywhere."""
    link: LinkSettings = field(default_factory=LinkSettings)

    def check(self) -> None:
        """Raises ConfigError for numbers that cannot be."""
        if self.num_threads < 1:
            raise ConfigError(f"a host has at least 1 thread, not {self.num_threads}")
        if self.cores is not None and len(self.cores) != self.num_threads:
            raise ConfigError(
                f"a host has {self.num_threads} threads on {len(self.cores)} cores; "
                "name as many cores as threads"
            )

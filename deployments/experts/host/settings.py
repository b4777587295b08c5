"""What an expert host is given beside its model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experts.checkpoint.types import Dtype
from experts.host.order_book import ACK_TIMEOUT_S
from experts.settings import HostDevice, Precision
from experts.transport.link import LinkSettings
from infra.errors import ConfigError


@dataclass(frozen=True)
class HostSettings:
    """Of one host."""

    num_slots: int
    """In each layer."""
    dtype: Dtype
    """The engines', in which rows come; the checkpoint's may be another."""
    unix_folder: Path
    """Where engines on this node find its socket; only its owner may enter."""
    precision: Precision = "full"
    device: HostDevice = "cpu"
    tcp_host: str | None = None
    """This node's name or address, as other nodes dial it; None where there are none."""
    secret: str | None = field(default=None, repr=False)
    """What the processes of the cluster share; links between nodes need it."""
    num_threads: int = 1
    """That compute."""
    cores: Sequence[int] | None = None
    """One for each thread, see `threads`; None: anywhere."""
    link: LinkSettings = field(default_factory=LinkSettings)
    ack_timeout_s: float = ACK_TIMEOUT_S
    """How long an engine has to say that it uses a slot no more."""

    def check(self) -> None:
        """Raises ConfigError for numbers that cannot be."""
        if self.num_slots < 1:
            raise ConfigError(f"an expert host has at least 1 slot, not {self.num_slots}")
        if self.num_threads < 1:
            raise ConfigError(f"an expert host has at least 1 thread, not {self.num_threads}")
        if self.cores is not None and len(self.cores) != self.num_threads:
            raise ConfigError(
                f"an expert host has {self.num_threads} threads on {len(self.cores)} cores; "
                "name as many cores as threads"
            )

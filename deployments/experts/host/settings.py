"""What an expert host is given beside its model."""

from dataclasses import dataclass

from deployments.link_hosts.settings import LinkHostSettings
from experts.checkpoint.types import Dtype
from experts.host.order_book import ACK_TIMEOUT_S
from experts.settings import HostDevice, Precision
from infra.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HostSettings(LinkHostSettings):
    """Of one host."""

    num_slots: int
    """In each layer."""
    dtype: Dtype
    """The engines', in which rows come; the checkpoint's may be another."""
    precision: Precision = "full"
    device: HostDevice = "cpu"
    ack_timeout_s: float = ACK_TIMEOUT_S
    """How long an engine has to say that it uses a slot no more."""

    def check(self) -> None:
        """Raises ConfigError for numbers that cannot be."""
        super().check()
        if self.num_slots < 1:
            raise ConfigError(f"an expert host has at least 1 slot, not {self.num_slots}")

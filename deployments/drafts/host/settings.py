"""What a draft host is given beside its models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experts.transport.link import LinkSettings
from router.speculation.settings import DraftSection


@dataclass(frozen=True)
class DraftHostSettings:
    """Of one host."""

    unix_folder: Path
    """Where engines on this node find its socket; only its owner may enter."""
    section: DraftSection
    tcp_host: str | None = None
    """This node's name or address, as other nodes dial it; None where there are none."""
    secret: str | None = field(default=None, repr=False)
    """What the processes of the cluster share; links between nodes need it."""
    num_threads: int = 1
    """That compute."""
    cores: Sequence[int] | None = None
    """One for each thread; None: anywhere."""
    link: LinkSettings = field(default_factory=LinkSettings)

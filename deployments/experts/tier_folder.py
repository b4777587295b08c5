"""What an engine's processes must know of their tier, and vLLM's configuration must not
have in it.

vLLM keeps compiled models under a hash of its configuration, `additional_config` among it:
a path or a secret in there would have every engine compile anew. So the engine's processes
find both in a folder, which only its owner may enter, by an environment variable.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from experts.directory import HostCard, write_directory
from infra.errors import ConfigError

FOLDER_VARIABLE = "COTERIE_EXPERT_TIER_FOLDER"
_HOSTS, _SECRET = "expert-hosts.json", "expert-secret"


class TierFolder:
    """Files of one engine's tier."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_environment(cls) -> "TierFolder":
        """What the process that has started this one names. Raises ConfigError."""
        named = os.environ.get(FOLDER_VARIABLE)
        if named is None:
            raise ConfigError(
                f"{FOLDER_VARIABLE} does not say where the expert tier's files are"
            )
        return cls(Path(named))

    @property
    def directory(self) -> Path:
        """See `experts.directory`."""
        return self.path / _HOSTS

    @property
    def secret(self) -> str:
        """What the cluster's processes share."""
        return (self.path / _SECRET).read_text(encoding="utf-8")

    def write_secret(self, secret: str) -> None:
        """Before the engine is started."""
        mine = os.open(self.path / _SECRET, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(mine, "w", encoding="utf-8") as file:
            file.write(secret)

    def write_hosts(self, cards: Iterable[HostCard]) -> None:
        """In the place of those that were told before; news may come once too often, when
        the engine has ended and the folder is gone."""
        if self.path.is_dir():
            write_directory(self.directory, cards)

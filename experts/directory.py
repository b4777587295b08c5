"""Which expert hosts there are, told to the processes of an engine by a file.

An engine's ranks are processes of vLLM's that know nothing of Ray. The replica they belong
to writes the file anew whenever a host comes or goes, and they look at it often. The
file says who may be dialled, and nothing of what the hosts hold: they say that themselves.

Worked example: `{"hosts": [{"host": "a1", "addresses": ["unix:///tmp/a1", "tcp://n:4711"]}]}`
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.types import HostId
from infra.atomic_file import replacing
from infra.errors import ConfigError


@dataclass(frozen=True)
class HostCard:
    """How to reach one expert host."""

    host: HostId
    addresses: tuple[str, ...]
    """Best first: an engine takes the first at which it is answered. A `unix://` address is
    good on the host's node alone."""

    def as_dict(self) -> dict[str, Any]:
        """JSON types alone."""
        return {"host": self.host, "addresses": list(self.addresses)}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "HostCard":
        """From `as_dict`; raises ConfigError for what is not one."""
        host, addresses = fields.get("host"), fields.get("addresses")
        is_list = isinstance(addresses, list) and all(isinstance(a, str) for a in addresses)
        if not (isinstance(host, str) and host and is_list and addresses):
            raise ConfigError(f"an expert host needs a name and addresses, not {dict(fields)}")
        return cls(HostId(host), tuple(addresses))


def write_directory(path: Path, cards: Iterable[HostCard]) -> None:
    """Put the hosts in the place of those that the file had; whole or not at all."""
    text = json.dumps({"hosts": [card.as_dict() for card in cards]}, sort_keys=True)
    with replacing(path) as file:
        file.write(text.encode())


class DirectoryFile:
    """Reads the file again when it has changed. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._cards: tuple[HostCard, ...] = ()

    def cards(self) -> Sequence[HostCard]:
        """The hosts, by the latest file; none where it is not there.

        Takes some microseconds where nothing has changed. Raises ConfigError for a file
        that nobody of ours has written.
        """
        try:
            found = self._path.stat()
            # Each file is another one, with a time and an inode of its own.
            mark = (found.st_mtime_ns, found.st_ino)
            if mark != self._seen:
                self._cards = _cards(self._path.read_bytes(), self._path)
                self._seen = mark
        except FileNotFoundError:
            self._seen, self._cards = None, ()
        return self._cards


def _cards(text: bytes, path: os.PathLike[str]) -> tuple[HostCard, ...]:
    try:
        return tuple(HostCard.of(fields) for fields in json.loads(text)["hosts"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{os.fspath(path)} is no list of expert hosts") from None

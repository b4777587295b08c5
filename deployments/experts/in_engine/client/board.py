"""What an engine rank knows of its expert hosts, handed from thread to thread.

The follower publishes what hosts have told; the model's thread takes it for one layer of
one step, and puts it back. A host that wants to change a slot has to know when nobody
asks by its older word any more: when what was taken since is at least as new.

Worked example: the model's thread has taken version 3 and waits for its answers. The
follower publishes version 4, in which a slot of host a is empty. It may say `done` to a
once the model's thread has put version 3 back, whether or not it has taken 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from experts.types import ExpertMap, HostId


@dataclass(frozen=True, eq=False)
class KnownTier:
    """The hosts that have told of their slots. Never changed."""

    map: ExpertMap
    versions: Mapping[HostId, int]
    """Of each host's own table: by which a request says what it goes by."""
    addresses: Mapping[HostId, str]
    """Where each host has answered."""


class Board:
    """One place for two threads."""

    def __init__(self, known: KnownTier) -> None:
        self._lock = Lock()
        self._known = known
        self._in_use: int | None = None

    def publish(self, known: KnownTier) -> None:
        """What is known from here on; the map's version says that it is newer."""
        with self._lock:
            assert known.map.version > self._known.map.version
            self._known = known

    def take(self) -> KnownTier:
        """What is known now, in use until `put_back`. Takes a microsecond."""
        with self._lock:
            assert self._in_use is None, "one layer after the other"
            self._in_use = self._known.map.version
            return self._known

    def put_back(self) -> None:
        """What was taken is not in use any more."""
        with self._lock:
            assert self._in_use is not None
            self._in_use = None

    def is_settled(self, version: int) -> bool:
        """Whether nothing older than this version of the map is in use, or will be."""
        with self._lock:
            assert self._known.map.version >= version
            return self._in_use is None or self._in_use >= version

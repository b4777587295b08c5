"""Where the index is kept, as seen from here: commands that go to a server's nodes.

What fails raises `StoreError`, which never reaches a client: whoever has it goes on
without the store and tries again. A link tries nothing again by itself, since a retry
after a restart of the server would hide it.

    StoreError            the store is away, full, or refuses
    └── EpochEndedError   the store no longer takes changes of this epoch
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cache.store.server_functions import function_name


class StoreError(Exception):
    """The store is away, full, or refuses; the message has no secrets."""


class EpochEndedError(StoreError):
    """The epoch has ended: its lease is over, or its holder has begun another."""


@dataclass(frozen=True)
class Command:
    """One command, with the key that decides where it goes."""

    key: bytes
    parts: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True)
class Node:
    """A primary of the server. `run_id` differs after each of its starts."""

    name: str
    run_id: str


class Link(Protocol):
    """Where the index is kept. All calls raise StoreError; none changes this object."""

    @property
    def is_clustered(self) -> bool:
        """One call takes keys of one slot alone. Known after the first call."""

    async def call_each(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, pipelined; on one node in this order. The first error raises,
        when all have run."""

    async def nodes(self) -> list[Node]:
        """All primaries, in the order of their names."""

    async def scan(
        self, node: Node, cursor: bytes, pattern: bytes, count: int
    ) -> tuple[bytes, list[bytes]]:
        """One step over a node's keys: the next cursor, `b"0"` at the end, and keys."""

    async def close(self) -> None:
        """Give the connections back."""


def function_call(name: str, keys: Sequence[bytes], *args: Any) -> Command:
    """The call of one of our functions; all keys are of one slot."""
    return Command(keys[0], ("FCALL", function_name(name), len(keys), *keys, *args))

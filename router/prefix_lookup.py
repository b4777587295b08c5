"""Where the router learns which replica has how much of a prompt cached."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from router.types import ReplicaId, UsablePrefix


class FoundPrefixes(NamedTuple):
    """What is known of one prompt."""

    usable: Mapping[ReplicaId, UsablePrefix]
    """The usable prefix of each replica that has any, or will have by the time that a
    request sent now is worked on."""

    expect: Callable[[ReplicaId], None]
    """To be told where the prompt is sent: until the replica tells so itself, the prompt
    counts as cached there."""


class PrefixLookup(Protocol):
    """The prefix index of one model, as far as routing needs it."""

    def look_up(
        self, token_ids: Sequence[int], adapter: str | None, cache_salt: str | None
    ) -> FoundPrefixes | None:
        """What is known of the prompt; None where the index is away.

        Changes nothing, never waits, raises nothing. It is a hint as of this moment: a
        replica may have evicted the blocks before the request reaches it. Called once a
        decision; it should take microseconds.
        """
        ...


class NoPrefixIndex:
    """A `PrefixLookup` that is always away."""

    def look_up(
        self, token_ids: Sequence[int], adapter: str | None, cache_salt: str | None
    ) -> FoundPrefixes | None:
        """See `PrefixLookup.look_up`."""
        del token_ids, adapter, cache_salt
        return None

"""Where the router learns which replica has how much of a prompt cached."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from router.types import ReplicaId, UsablePrefix


class PrefixLookup(Protocol):
    """The prefix index of one model, as far as routing needs it."""

    def usable_prefixes(
        self, token_ids: Sequence[int], adapter: str | None, cache_salt: str | None
    ) -> Mapping[ReplicaId, UsablePrefix] | None:
        """The usable prefix of each replica that has any; None where the index is away.

        Changes nothing, never waits, raises nothing. It is a hint as of this moment: a
        replica may have evicted the blocks before the request reaches it. Called once a
        decision; it should take microseconds.
        """
        ...


class NoPrefixIndex:
    """A `PrefixLookup` that is always away."""

    def usable_prefixes(
        self, token_ids: Sequence[int], adapter: str | None, cache_salt: str | None
    ) -> Mapping[ReplicaId, UsablePrefix] | None:
        """See `PrefixLookup.usable_prefixes`."""
        del token_ids, adapter, cache_salt
        return None

"""What goes in and out of the pump, which tells the index what an engine's cache holds.

Words of vLLM, and what they are here:

| vLLM                        | here                                                  |
|-----------------------------|-------------------------------------------------------|
| medium `GPU` (CPU too)      | tier `device`                                         |
| medium `CPU`                | tier `host`                                           |
| KV-cache groups that differ | groups, by their place in the *layout* (`layout.py`)  |
| KV-cache groups alike       | *members* of one group                                |
| block hash                  | *engine hash*: bytes or a number, of vLLM's own       |
"""

from dataclasses import dataclass
from typing import Final, Protocol

from cache.types import Change, Tier

EngineHash = bytes | int

MAX_QUEUED_BATCHES = 10_000
"""On each side of the socket, before the publisher throws batches away."""

TIERS: Final[tuple[Tier, ...]] = ("device", "host")
MEDIUM_TO_TIER: Final[dict[str, Tier]] = {"GPU": "device", "CPU": "host"}


class ChangeSink(Protocol):
    """Takes what changes in a replica's cache, for each data-parallel rank and tier.

    All calls come from the event loop, in the order of the engine's own steps. They
    must return at once: what blocks here, blocks the streams of all requests. An
    exception is logged, and then counts as a loss (`on_lost`).
    """

    def on_change(self, dp_rank: int, tier: Tier, change: Change) -> None:
        """Blocks came or went.

        `change.seq` counts from 0, and again from 0 after `on_clear` or `on_lost`. A
        sink that begins an epoch for reasons of its own numbers anew.
        """

    def on_clear(self, dp_rank: int, tier: Tier) -> None:
        """The cache has been emptied: it holds nothing until the next change."""

    def on_lost(self, dp_rank: int, tier: Tier) -> None:
        """Events are lost for good, so nobody knows what is still there.

        All that has been said of this holder is void; what it stores from here on
        follows in changes.
        """


@dataclass
class EventCounters:
    """Counts since the pump began, over all ranks."""

    num_batches: int = 0
    num_stored: int = 0
    """Blocks that a holder has got; copies of one that it had are not counted."""
    num_removed: int = 0
    num_cleared: int = 0
    """Times that the whole cache was emptied."""
    num_left_out: int = 0
    """Blocks that cannot be named by token ids, or lie where no router looks."""
    num_malformed: int = 0
    """Batches and events that make no sense."""
    num_duplicates: int = 0
    """Batches that came a second time, or too late."""
    num_gaps: int = 0
    num_replayed: int = 0
    """Batches that a gap had swallowed, and the publisher sent again."""
    num_lost: int = 0
    """Gaps that could not be healed."""

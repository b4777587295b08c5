"""From an engine's KV events to the prefix index: a publisher for each holder.

Most engines keep nothing in host memory, so a holder of that tier is made when the
first of its blocks is told of.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cache.store.index_store import IndexStore
from cache.store.publisher import Publisher
from cache.types import Change, Hashes, Holder, Tier
from deployments.engine.kv_events.types import ChangeSink


class Pump(Protocol):
    """What the feed needs of `KvEventPump`, which is the real one."""

    @property
    def dp_ranks(self) -> Sequence[int]:
        """The engine's data-parallel ranks."""

    def attach(self, sink: ChangeSink | None) -> None:
        """Let this sink have all changes from here on, the first with the number 0."""

    def current_hashes(self, dp_rank: int, tier: Tier) -> Hashes:
        """All that the holder has; what the sink is told from here on follows on it."""


class IndexFeed:
    """A `ChangeSink` that tells the store. Belongs to the pump's event loop."""

    def __init__(self, store: IndexStore, replica_id: str, pump: Pump) -> None:
        self._store = store
        self._replica_id = replica_id
        self._pump = pump
        self._publishers: dict[tuple[int, Tier], Publisher] = {}

    def start(self) -> None:
        """Tell what is there, and from here on all that changes."""
        self._pump.attach(self)
        for dp_rank in self._pump.dp_ranks:
            self._publisher(dp_rank, "device")

    async def close(self) -> None:
        """End the epochs, where the store can be reached."""
        self._pump.attach(None)
        await asyncio.gather(*(each.close() for each in self._publishers.values()))

    def on_change(self, dp_rank: int, tier: Tier, change: Change) -> None:
        """See `ChangeSink.on_change`."""
        self._publisher(dp_rank, tier).publish(change)

    def on_clear(self, dp_rank: int, tier: Tier) -> None:
        """See `ChangeSink.on_clear`."""
        self._publisher(dp_rank, tier).begin_anew()

    def on_lost(self, dp_rank: int, tier: Tier) -> None:
        """See `ChangeSink.on_lost`."""
        self._publisher(dp_rank, tier).begin_anew()

    def counts(self) -> dict[str, int]:
        """What was told, over all holders."""
        all_counts = [each.counts for each in self._publishers.values()]
        return {
            "num_epochs": sum(c.epochs for c in all_counts),
            "num_published_blocks": sum(c.published_blocks for c in all_counts),
            "num_pending_blocks": sum(p.num_pending_blocks for p in self._publishers.values()),
            "num_store_failures": sum(c.failures for c in all_counts),
        }

    def _publisher(self, dp_rank: int, tier: Tier) -> Publisher:
        found = self._publishers.get((dp_rank, tier))
        if found is None:
            holder = Holder(self._replica_id, dp_rank, tier)
            hashes = partial(self._pump.current_hashes, dp_rank, tier)
            found = self._publishers[dp_rank, tier] = Publisher(self._store, holder, hashes)
            found.start()
        return found

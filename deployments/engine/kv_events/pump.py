"""From the sockets of an engine's publishers to a sink, in the replica's process."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Self

from cache.types import Hashes, Tier
from deployments.engine.kv_events.batch_stream import BatchStream, EventSource
from deployments.engine.kv_events.layout import GroupLayout
from deployments.engine.kv_events.rank import RankCache
from deployments.engine.kv_events.types import ChangeSink, EventCounters
from infra.tasks import end_all

log = logging.getLogger(__name__)


class KvEventPump:
    """Follows the events of one engine, a task for each data-parallel rank.

    It runs from before the first request until the replica ends, with a sink or
    without: one that comes later begins with `current_hashes`.
    """

    def __init__(self, dp_rank_to_source: Mapping[int, EventSource]) -> None:
        self.counters = EventCounters()
        self._sink: ChangeSink | None = None
        self._sources = dp_rank_to_source
        self._streams: list[BatchStream] = []
        self._ranks: dict[int, RankCache] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls, model: str, layout: GroupLayout, dp_rank_to_source: Mapping[int, EventSource]
    ) -> Self:
        """Subscribe, and ask the publishers for what has been before.

        `model` is the model reference that chains start from (`ChainContext`).
        """
        pump = cls(dp_rank_to_source)
        for dp_rank, source in dp_rank_to_source.items():
            rank = RankCache(model, layout, pump.counters, dp_rank)
            stream = BatchStream(source, pump.counters)
            pump._ranks[dp_rank] = rank
            pump._streams.append(stream)
            rank.take(await stream.catch_up(), None)
            pump._tasks.append(asyncio.create_task(pump._follow(stream, rank)))
        return pump

    async def stop(self) -> None:
        """End all tasks and close the sockets."""
        await end_all(self._tasks)
        for stream in self._streams:
            stream.close()

    def attach(self, sink: ChangeSink | None) -> None:
        """Let this sink have all changes from here on, the first with the number 0."""
        self._sink = sink
        for rank in self._ranks.values():
            rank.number_anew()

    @property
    def dp_ranks(self) -> tuple[int, ...]:
        """The engine's data-parallel ranks."""
        return tuple(self._ranks)

    def current_hashes(self, dp_rank: int, tier: Tier) -> Hashes:
        """All that the holder has, for a new epoch. Shape: [num_blocks].

        What the sink is told from here on follows on it.
        """
        return self._ranks[dp_rank].current_hashes(tier)

    async def _follow(self, stream: BatchStream, rank: RankCache) -> None:
        while True:
            burst = await stream.receive()
            try:
                rank.take(burst, self._sink)
            except Exception:
                # The engine serves on: what is held is a hint, and counts as unknown.
                log.exception("KV events could not be taken over")
                self.counters.num_lost += 1
                rank.lose(self._sink)
            # A socket with more to give would never let others run.
            await asyncio.sleep(0)

"""One data-parallel rank's way from bursts of batches to calls of a sink."""

import logging

from cache.types import Change, Hashes, Tier
from deployments.engine.kv_events.batch_stream import Burst
from deployments.engine.kv_events.layout import GroupLayout
from deployments.engine.kv_events.messages import decode_batch
from deployments.engine.kv_events.translator import Translator
from deployments.engine.kv_events.types import ChangeSink, EventCounters

log = logging.getLogger(__name__)


class RankCache:
    """What the caches of one rank hold, and a sink that is told of changes."""

    def __init__(
        self, model: str, layout: GroupLayout, counters: EventCounters, dp_rank: int
    ) -> None:
        self._counters = counters
        self._dp_rank = dp_rank
        self._translator = Translator(model, layout, counters, self._on_malformed)
        self._next_seq: dict[Tier, int] = {}
        self._complaints: set[str] = set()

    def take(self, burst: Burst, sink: ChangeSink | None) -> None:
        """Take over a burst, and tell the sink what has changed by it."""
        if burst.has_lost:
            self.lose(sink)
        for payload in burst.payloads:
            self._counters.num_batches += 1
            events, complaints = decode_batch(payload)
            for complaint in complaints:
                self._on_malformed(complaint)
            self._translator.apply(events)
        self._tell(sink)

    def lose(self, sink: ChangeSink | None) -> None:
        """Nobody knows what is still held: forget it, and tell the sink."""
        self._translator.forget()
        self._translator.take_clear()
        for tier in self._translator.tiers:
            self._translator.take_changes(tier)
            self._next_seq[tier] = 0
            if sink is not None:
                sink.on_lost(self._dp_rank, tier)

    def number_anew(self) -> None:
        """Give the next change of each tier the number 0."""
        self._next_seq.clear()

    def current_hashes(self, tier: Tier) -> Hashes:
        """All that the tier holds. Shape: [num_blocks]."""
        return self._translator.current_hashes(tier)

    def _tell(self, sink: ChangeSink | None) -> None:
        is_cleared = self._translator.take_clear()
        for tier in self._translator.tiers:
            if is_cleared:
                self._next_seq[tier] = 0
                if sink is not None:
                    sink.on_clear(self._dp_rank, tier)
            stored, removed = self._translator.take_changes(tier)
            if sink is not None and len(stored) + len(removed):
                seq = self._next_seq.get(tier, 0)
                self._next_seq[tier] = seq + 1
                sink.on_change(self._dp_rank, tier, Change(seq, stored, removed))

    def _on_malformed(self, complaint: str) -> None:
        self._counters.num_malformed += 1
        kind = complaint.split(" - ", maxsplit=1)[0][:80]
        if kind not in self._complaints and len(self._complaints) < 100:
            self._complaints.add(kind)
            log.warning("the engine sent a KV event that makes no sense: %.300s", complaint)

"""vLLM's batches of events in their order, without gaps where that can be had.

The publisher numbers batches from 0 and throws away what a subscriber is too slow for.
It keeps the last ones, and sends them again from a given number on when it is asked at
its replay endpoint; what it sends there it may throw away too, so we ask until nothing
is missing. It is also asked where nothing has come for a while, for the gap may lie at
the end.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import zmq
import zmq.asyncio

from deployments.engine.kv_events.types import MAX_QUEUED_BATCHES, EventCounters

log = logging.getLogger(__name__)

_END = (-1).to_bytes(8, "big", signed=True)
_MAX_BURST = 32


@dataclass(frozen=True)
class EventSource:
    """Where one data-parallel rank publishes its events, and sends them again."""

    endpoint: str
    replay_endpoint: str


@dataclass(frozen=True)
class Burst:
    """Batches that follow on the ones before; with `has_lost`, after some are missing."""

    payloads: list[bytes]
    has_lost: bool = False


class _Gap(Exception):
    """Batches before `seq` are gone for good."""

    def __init__(self, seq: int) -> None:
        self.seq = seq


class BatchStream:
    """Subscribes when it is made; `close` ends it."""

    def __init__(
        self,
        source: EventSource,
        counters: EventCounters,
        idle_s: float = 10.0,
        replay_timeout_s: float = 5.0,
    ) -> None:
        self._source = source
        self._counters = counters
        self._idle_s = idle_s
        self._replay_timeout_s = replay_timeout_s
        self._next_seq = 0
        self._context = zmq.asyncio.Context()
        self._socket = self._connect(zmq.SUB, source.endpoint)

    def close(self) -> None:
        """End it; what has not been received is gone."""
        self._context.destroy(linger=0)

    async def receive(self) -> Burst:
        """Wait for the next batches.

        Comes back with none where nothing has come for `idle_s`, and nothing is missing.
        """
        if not await self._socket.poll(self._idle_s * 1000):
            return await self._heal(None)
        payloads: list[bytes] = []
        has_lost = False
        for _ in range(_MAX_BURST):
            try:
                frames = await self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            burst = await self._take(frames)
            if burst.has_lost:
                has_lost, payloads = True, []
            payloads += burst.payloads
        return Burst(payloads, has_lost)

    async def catch_up(self) -> Burst:
        """Ask for what was published before this stream began."""
        return await self._heal(None)

    async def _take(self, frames: list[bytes]) -> Burst:
        """One message, with what is missing before it."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self._counters.num_malformed += 1
            return Burst([])
        seq = int.from_bytes(frames[1], "big")
        healed = Burst([])
        if seq > self._next_seq:
            self._counters.num_gaps += 1
            healed = await self._heal(seq)
        if seq < self._next_seq:
            # Healing a gap may have brought this one too: no duplicate then.
            self._counters.num_duplicates += not healed.payloads
            return healed
        self._next_seq = seq + 1
        return Burst([*healed.payloads, frames[2]], healed.has_lost)

    async def _heal(self, end: int | None) -> Burst:
        """All that the publisher still has, and at least up to `end`, or it is lost."""
        payloads: list[bytes] = []
        has_lost = False
        while True:
            begin = self._next_seq
            try:
                async for payload in self._replayed():
                    payloads.append(payload)
                    self._next_seq += 1
            except _Gap as gap:
                self._next_seq, payloads, has_lost = gap.seq, [], True
                continue
            if end is None or self._next_seq >= end:
                break
            if self._next_seq == begin:
                self._next_seq, payloads, has_lost = end, [], True
                break
        self._counters.num_replayed += len(payloads)
        self._counters.num_lost += has_lost
        return Burst(payloads, has_lost)

    async def _replayed(self) -> AsyncIterator[bytes]:
        """What the publisher sends again, as far as it has no gaps.

        Raises _Gap where it has no longer the first that is asked for.
        """
        # A socket of its own: the rest of an earlier answer does not come to it.
        socket = self._connect(zmq.DEALER, self._source.replay_endpoint)
        try:
            seq = self._next_seq
            await socket.send_multipart([b"", seq.to_bytes(8, "big")])
            is_first = True
            while await socket.poll(self._replay_timeout_s * 1000):
                *_, number, payload = await socket.recv_multipart()
                if number == _END:
                    return
                found = int.from_bytes(number, "big")
                if found > seq and is_first:
                    raise _Gap(found)
                if found == seq:
                    seq += 1
                    yield payload
                is_first = False
            log.warning("the engine sends no KV events again: no answer")
        finally:
            socket.close(linger=0)

    def _connect(self, kind: int, endpoint: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.set_hwm(MAX_QUEUED_BATCHES)
        if kind == zmq.SUB:
            socket.subscribe(b"")
        socket.connect(endpoint)
        return socket

"""A link to one host, and the requests that are under way on it.

A request that is waited for no longer, since its host is late, is *overdue*. Its host is
asked nothing more until all that is overdue has been answered; these answers are dropped.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deployments.experts.in_engine.client.stats import TierStats
from experts.transport import messages
from experts.transport.errors import BadFrameError, LinkTimeoutError
from experts.transport.link import Link
from experts.transport.messages import AnswerHeader, RequestHeader, RowType, Status
from experts.types import HostId
from router.dispatch.types import Parcel

_ROOM_S = 0.4
"""A host that has answered everything gives room within this, or is not well."""

_FORGETTING = 1.01
"""What the least round trip grows by with each that took longer."""


class Ask(NamedTuple):
    """What all requests of one layer and step have in common."""

    layer: int
    rows: NDArray[Any]  # [num_tokens, hidden_size]
    row_type: RowType
    has_checksum: bool


@dataclass
class Sent:
    """A request under way."""

    header: RequestHeader
    parcel: Parcel
    sent_s: float


class Answer(NamedTuple):
    """What came back for a request."""

    sent: Sent
    header: AnswerHeader
    rows: NDArray[np.float32]
    """In place, until `Line.release`. Shape: [num_pairs, hidden_size]."""


class Line:
    """Not for several threads at once. What raises TransportError loses the line."""

    def __init__(self, host: HostId, link: Link, stats: TierStats) -> None:
        self.host = host
        self.link = link
        self.heard_s = 0.0
        """When the host last answered, or was asked while nothing was under way."""
        self.trip_s = math.inf
        """About the least time that a request takes beside what the host waits and computes
        for it. The least, since an answer that nobody waits for lies there for a while."""
        self._stats = stats
        self._under_way: dict[int, Sent] = {}
        self._waiting: deque[tuple[Ask, int, Parcel]] = deque()
        self._overdue: set[int] = set()
        self._next_sequence = 1

    @property
    def is_late(self) -> bool:
        """Whether something is overdue."""
        return bool(self._overdue)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waited for."""
        return not self._under_way and not self._waiting

    def ask(self, ask: Ask, version: int, parcels: Sequence[Parcel], now_s: float) -> None:
        """Send these, in order, as soon as there is room for each."""
        assert not self._overdue
        if self.is_idle:
            self.heard_s = now_s
        self._waiting.extend((ask, version, parcel) for parcel in parcels)
        self.send(now_s)

    def send(self, now_s: float) -> None:
        """Send what there is room for by now."""
        while self._waiting:
            ask, version, parcel = self._waiting[0]
            header = self._header(ask, version, parcel)
            frame = self._room(header.num_bytes)
            if frame is None:
                return
            pairs = (parcel.pair_slots, parcel.pair_rows)
            messages.put_request(frame, header, pairs, parcel.rows, ask.rows)
            self.link.commit()
            self._waiting.popleft()
            self._under_way[header.sequence] = Sent(header, parcel, now_s)
            self._stats.num_bytes_sent += header.num_bytes
            self._next_sequence += 1

    def receive(self, now_s: float) -> Answer | None:
        """The next answer that somebody waits for, to be read until `release`.

        Raises BadFrameError for one that does not fit what was asked.
        """
        while (frame := self.link.receive()) is not None:
            header, rows = messages.read_answer(frame)
            self.heard_s = now_s
            self._stats.num_bytes_received += header.num_bytes
            if header.sequence in self._overdue:
                self._overdue.discard(header.sequence)
                self.link.release()
                continue
            sent = self._under_way.pop(header.sequence, None)
            if sent is None:
                raise BadFrameError(f"an answer to request {header.sequence}, never asked")
            if header.status == Status.OK:
                _check(header, sent.header)
                self._stats.compute_s += header.compute_s
                self._stats.queue_s += header.queue_s
                spent_s = header.queue_s + header.compute_s
                trip_s = max(0.0, now_s - sent.sent_s - spent_s)
                self.trip_s = min(trip_s, self.trip_s * _FORGETTING)
            return Answer(sent, header, rows)
        return None

    def release(self) -> None:
        """The answer has been read."""
        self.link.release()

    def give_up(self) -> list[Parcel]:
        """Wait for nothing any more; returns what was not answered."""
        parcels = [sent.parcel for sent in self._under_way.values()]
        parcels += [parcel for _, _, parcel in self._waiting]
        self._overdue |= self._under_way.keys()
        self._under_way.clear()
        self._waiting.clear()
        return parcels

    def check_invariants(self) -> None:
        """Raises AssertionError where the requests contradict each other."""
        assert not self._overdue & self._under_way.keys()
        assert all(number < self._next_sequence for number in self._under_way)
        assert not (self._overdue and self._waiting)

    def _room(self, num_bytes: int) -> memoryview | None:
        """None where there is none before another answer. Raises LinkTimeoutError where
        there is none although nothing is to be answered."""
        timeout_s = 0.0 if self._under_way else _ROOM_S
        try:
            return self.link.reserve(num_bytes, timeout_s)
        except LinkTimeoutError:
            if not self._under_way:
                raise
            return None

    def _header(self, ask: Ask, version: int, parcel: Parcel) -> RequestHeader:
        return RequestHeader(
            sequence=self._next_sequence,
            layer=ask.layer,
            map_version=version,
            num_rows=len(parcel.rows),
            num_pairs=len(parcel.pairs),
            hidden_size=ask.rows.shape[1],
            row_type=ask.row_type,
            wants_float32=True,
            has_checksum=ask.has_checksum,
        )


def _check(header: AnswerHeader, asked: RequestHeader) -> None:
    found = (header.num_pairs, header.hidden_size, header.row_type)
    wanted = (asked.num_pairs, asked.hidden_size, asked.answer_type)
    if found != wanted or header.has_checksum != asked.has_checksum:
        raise BadFrameError(
            f"an answer of {found[0]} rows of {found[1]} {found[2].name}, where {wanted[0]} "
            f"rows of {wanted[1]} {wanted[2].name} were asked for"
        )

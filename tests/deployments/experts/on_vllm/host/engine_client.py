"""An engine's end of the links to a host, and a director's: frames, one at a time. No torch,
so that a process that plays an engine starts at once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.host_report import HostReport
from experts.tier_view import SlotTable
from experts.transport import control
from experts.transport.control import Order, Ordered, Outcome
from experts.transport.errors import PeerLostError
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link, LinkSettings
from experts.transport.messages import (
    AnswerHeader,
    RequestHeader,
    RowType,
    Status,
    read_answer,
    seal,
    write_request,
)

SECRET = "the cluster's secret"
LIMIT_S = 20.0
SETTINGS = LinkSettings(max_frame_bytes=64 * 1024, set_up_timeout_s=LIMIT_S)

Pairs = Sequence[tuple[int, int]]
"""Rows and slots."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One that was read."""

    header: AnswerHeader
    rows: NDArray[Any]
    """Copied. Shape: [num_pairs, hidden_size]."""

    @property
    def status(self) -> Status:
        return self.header.status


class Client:
    """One link of a process that is no host."""

    def __init__(
        self, address: str, digest: str, name: str = "engine", settings: LinkSettings = SETTINGS
    ) -> None:
        self.hub = Hub(Identity(name, digest), settings, SECRET)
        try:
            self.link: Link = self.hub.dial(address)
        except BaseException:
            self.hub.close()
            raise
        self._sequence = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.hub.close()

    def send(self, frame: bytes) -> None:
        self.link.reserve(len(frame), LIMIT_S)[:] = frame
        self.link.commit()

    def read(self, read: Callable[[memoryview], Any]) -> Any:
        """What the next frame says; it must be a copy."""
        deadline = time.monotonic() + LIMIT_S
        while (frame := self.link.receive()) is None:
            assert time.monotonic() < deadline, "the host says nothing"
            self.hub.wait(0.1)
        found = read(frame)
        self.link.release()
        return found

    def is_hung_up_on(self) -> bool:
        """Whether the host closes the link; waits for it."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            try:
                if self.link.receive() is not None:
                    self.link.release()
                    continue
            except PeerLostError:
                return True
            self.hub.wait(0.1)
        return False

    def ask(
        self, layer: int, rows: NDArray[Any], pairs: Pairs, version: int, **more: Any
    ) -> int:
        """Send a request; its number. `more` are fields of the header."""
        self._sequence += 1
        header = RequestHeader(
            sequence=self._sequence,
            layer=layer,
            map_version=version,
            num_rows=len(rows),
            num_pairs=len(pairs),
            hidden_size=rows.shape[1],
            row_type=RowType.BFLOAT16 if rows.dtype == np.uint16 else RowType.FLOAT32,
        )._replace(**more)
        frame = self.link.reserve(header.num_bytes, LIMIT_S)
        views = write_request(frame, header)
        for number, (row, slot) in enumerate(pairs):
            views.pair_rows[number], views.pair_slots[number] = row, slot
        views.rows[:] = rows
        seal(frame)
        self.link.commit()
        return self._sequence

    def answer(self) -> Answer:
        header, rows = self.read(_copied)
        return Answer(header, rows)

    def asked(
        self, layer: int, rows: NDArray[Any], pairs: Pairs, version: int, **more: Any
    ) -> Answer:
        """A request and its answer."""
        sequence = self.ask(layer, rows, pairs, version, **more)
        answer = self.answer()
        assert answer.header.sequence == sequence
        return answer

    def follow(self) -> SlotTable:
        self.send(control.follow_frame())
        return self.table()

    def table(self) -> SlotTable:
        found: SlotTable = self.read(control.read_table)
        return found

    def done(self, version: int) -> None:
        self.send(control.done_frame(version))

    def report(self) -> HostReport:
        self.send(control.ask_frame())
        found: HostReport = self.read(control.read_report)
        return found

    def order(self, number: int, *moves: tuple[int, int, int]) -> None:
        self.send(control.order_frame(Order(number, np.array(moves, np.int32).reshape(-1, 3))))

    def ordered(self) -> Ordered:
        found: Ordered = self.read(control.read_ordered)
        return found

    def fill(self, *moves: tuple[int, int, int]) -> None:
        """An order, to its good end."""
        self.order(1, *moves)
        assert self.ordered() == Ordered(1, (Outcome.DONE,) * len(moves))


def _copied(frame: memoryview) -> tuple[AnswerHeader, NDArray[Any]]:
    header, rows = read_answer(frame)
    return header, rows.copy()

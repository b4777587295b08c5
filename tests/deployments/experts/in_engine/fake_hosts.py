"""Expert hosts that compute something simple, in threads, and misbehave as they are told."""

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experts.directory import HostCard
from experts.tier_view import SlotTable
from experts.transport import control, messages
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link, LinkSettings
from experts.transport.messages import AnswerHeader, RowType, Status
from experts.types import EMPTY_SLOT, HostId

MODEL = "a model"

Manner = Literal["well", "silent", "other map", "failed", "too few rows", "breaks down"]


def computed(layer: int, expert: int, row: NDArray[Any]) -> NDArray[Any]:
    """What an expert makes of a row: another thing for each expert and layer."""
    return row * np.float32(expert + 1) + np.float32(100 * layer)


class FakeHost:
    """A host of one slot table, in a thread of its own until `close`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        held: list[list[int]],
        settings: LinkSettings | None = None,
    ) -> None:
        self.host = HostId(name)
        self.table = SlotTable(1, np.array(held, np.int16))
        self.manner: Manner = "well"
        self.num_requests = 0
        self.done: list[int] = []
        self._followers: list[Link] = []
        self._told = 0
        self._is_over = threading.Event()
        self._hub = Hub(Identity(name, MODEL), settings)
        self.card = HostCard(self.host, (self._hub.listen(f"unix://{folder}/{name}"),))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def change(self, held: list[list[int]]) -> None:
        """Announce other slots."""
        self.table = SlotTable(self.table.version + 1, np.array(held, np.int16))

    def behave(self, manner: Manner) -> None:
        """From the next request on. A host that was silent answers what it was asked."""
        self.manner = manner

    def close(self) -> None:
        """Die."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with self._hub as hub:
            while not self._is_over.is_set():
                for link in hub.wait(0.02):
                    self._serve(link)
                if self._told < self.table.version:
                    self._told = self.table.version
                    for link in self._followers:
                        self._tell(link)

    def _serve(self, link: Link) -> None:
        try:
            while (frame := link.receive()) is not None:
                kind = control.kind_of(frame)
                if kind == control.FOLLOW:
                    self._followers.append(link)
                    self._tell(link)
                elif kind == control.DONE:
                    self.done.append(control.read_done(frame))
                elif self.manner == "silent":
                    # Read again at each look: nothing is released before it is answered.
                    self._is_over.wait(0.01)
                    return
                elif self.manner == "breaks down":
                    self._is_over.set()
                    return
                else:
                    self._answer(link, frame)
                link.release()
        except Exception:
            if link in self._followers:
                self._followers.remove(link)
            link.close()

    def _answer(self, link: Link, frame: memoryview) -> None:
        self.num_requests += 1
        header, views = messages.read_request(frame)
        held = self.table.held[header.layer][views.pair_slots]
        status = {"other map": Status.OTHER_MAP, "failed": Status.FAILED}.get(
            self.manner, Status.OTHER_MAP if (held == EMPTY_SLOT).any() else Status.OK
        )
        num_pairs = header.num_pairs if status == Status.OK else 0
        num_pairs -= self.manner == "too few rows"
        what = (header.sequence, status, num_pairs, header.hidden_size, RowType.FLOAT32)
        answer = AnswerHeader(*what, 1e-4, 0.0, header.has_checksum)
        room = link.reserve(answer.num_bytes, 1.0)
        rows = messages.write_answer(room, answer)
        for pair in range(num_pairs):
            row = views.rows[views.pair_rows[pair]]
            rows[pair] = computed(header.layer, int(held[pair]), row)
        messages.seal(room)
        link.commit()

    def _tell(self, link: Link) -> None:
        frame = control.table_frame(self.table)
        link.reserve(len(frame), 1.0)[:] = frame
        link.commit()

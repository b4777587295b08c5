"""The thread that reads experts into slots while the host goes on serving."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from deployments.experts.weights import ExpertReader, ExpertSlots
from deployments.link_hosts.threads import compute_with
from experts.host.order_book import Fill, FillId
from experts.transport.control import Outcome
from experts.types import EMPTY_SLOT

log = logging.getLogger(__name__)

_END_TIMEOUT_S = 10.0
"""For the expert that is being read."""


class Filler:
    """A `SlotFiller` with one thread."""

    def __init__(
        self, slots: ExpertSlots, reader: ExpertReader, on_ended: Callable[[], None]
    ) -> None:
        """`on_ended` is called by the thread when `ended` has something."""
        self._slots = slots
        self._reader = reader
        self._on_ended = on_ended
        self._fills: queue.SimpleQueue[Fill | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[FillId, Sequence[Outcome]]] = queue.SimpleQueue()
        self._is_closing = False
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="expert-filler", daemon=True)

    def start(self) -> None:
        """Once; returns when the thread has chosen its number of threads.

        Some of torch's libraries have one number for the process: the latest. The caller
        is to choose its own afterwards.
        """
        self._thread.start()
        self._is_ready.wait()

    def begin(self, fill: Fill) -> None:
        """See `SlotFiller`."""
        self._fills.put(fill)

    def ended(self) -> Iterator[tuple[FillId, Sequence[Outcome]]]:
        """See `SlotFiller`."""
        while not self._ended.empty():
            yield self._ended.get()

    def close(self) -> None:
        """Finish the expert that is being read, and leave the others."""
        self._is_closing = True
        self._fills.put(None)
        if self._thread.is_alive():
            self._thread.join(_END_TIMEOUT_S)

    def _run(self) -> None:
        compute_with(1)
        self._is_ready.set()
        while (fill := self._fills.get()) is not None:
            outcomes = [self._make(*move) for move in fill.moves.tolist()]
            self._ended.put((fill.id, outcomes))
            self._on_ended()

    def _make(self, layer: int, slot: int, expert: int) -> Outcome:
        if self._is_closing:
            return Outcome.FAILED
        try:
            if expert == EMPTY_SLOT:
                self._slots.clear(layer, slot)
            else:
                self._slots.fill(layer, slot, expert, self._reader)
        except Exception:  # the thread's boundary: whatever a broken file leads to
            log.exception("expert %d of layer %d cannot be read", expert, layer)
            return Outcome.FAILED
        return Outcome.DONE

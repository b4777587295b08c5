"""A host's reports, each about the time since the last one to the same asker."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from experts.host.slot_book import SlotBook
from experts.host.work_counts import Totals, WorkCounts
from experts.host_report import HostReport
from experts.types import HostId
from router.dispatch.cost_model import CostModel
from router.dispatch.types import PER_EXPERT, PER_PAIR


@dataclass(frozen=True, eq=False)
class HostState:
    """What reports are made from; changed by the host's thread."""

    host: HostId
    book: SlotBook
    counts: WorkCounts
    costs: CostModel
    num_engines: Callable[[], int]
    is_leaving: Callable[[], bool]


class Reporter:
    """For any thread."""

    def __init__(self, state: HostState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._asker_to_last: dict[object, Totals] = {}

    def report(self, asker: object) -> HostReport:
        """The first one to an asker is about the time since the host began."""
        state = self._state
        with self._lock:
            totals = state.counts.totals(time.monotonic())
            last = self._asker_to_last.get(asker, state.counts.began)
            self._asker_to_last[asker] = totals
        tokens, activations = state.counts.counters()
        costs = state.costs.costs()[0]
        return HostReport(
            host=state.host,
            table=state.book.table,
            tokens=tokens,
            activations=activations,
            activation_s=float(costs[PER_EXPERT]),
            token_s=float(costs[PER_PAIR]),
            queue_s=totals.queue_s_since(last),
            busy_share=totals.busy_share_since(last),
            num_engines=state.num_engines(),
            num_requests=totals.num_requests,
            is_leaving=state.is_leaving(),
        )

    def forget(self, asker: object) -> None:
        """It will not ask again."""
        with self._lock:
            self._asker_to_last.pop(asker, None)

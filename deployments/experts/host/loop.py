"""A host's turns. In each it takes the oldest frame of every link that has one, computes
the requests layer by layer, and answers them.

No peer can hold up the others for longer than `SEND_TIMEOUT_S`, and then it is gone. Slots
are filled by another thread meanwhile; what engines are told of them, and which requests
may be computed, is the loop's alone.
"""

import time
from collections.abc import Callable

from deployments.experts.host.filler import Filler
from deployments.experts.host.reporter import HostState, Reporter
from deployments.experts.host.settings import HostSettings
from deployments.experts.host.work_desk import WorkDesk
from deployments.experts.kernel_choice import HostExperts
from deployments.experts.rows import DTYPE_TO_ROW_TYPE
from experts.host.arrival import ArrivalClock
from experts.host.control_desk import ControlDesk
from experts.host.link_keeper import LinkKeeper
from experts.host.request_check import HostLimits
from experts.host.slot_book import SlotBook
from experts.host.work_counts import WorkCounts
from experts.transport import control
from experts.transport.errors import BadFrameError
from experts.transport.hub import Hub
from experts.transport.link import Link
from experts.types import EMPTY_SLOT, HostId
from router.dispatch.cost_model import CostModel
from router.dispatch.settings import DispatchSection

_IDLE_S = 1.0


class HostLoop:
    """All that one thread does. Properties and reports are for any thread."""

    def __init__(
        self,
        host: HostId,
        hub: Hub,
        experts: HostExperts,
        filler: Filler,
        settings: HostSettings,
        is_leaving: Callable[[], bool],
    ) -> None:
        now_s = time.monotonic()
        self._slots = experts.slots
        self._hub = hub
        self._clock = ArrivalClock(now_s)
        self._is_busy = False
        self.turned_s = now_s
        """When the latest turn began."""
        self._book = SlotBook(self._slots.shape, self._slots.num_slots)
        self._keeper = LinkKeeper(self._on_gone)
        shape = self._slots.shape
        counts = WorkCounts(shape.num_layers, shape.num_experts, now_s)
        costs = CostModel(DispatchSection())
        costs.set_hosts([host])
        self.reporter = Reporter(
            HostState(host, self._book, counts, costs, lambda: self.num_engines, is_leaving)
        )
        limits = HostLimits(shape, DTYPE_TO_ROW_TYPE[settings.dtype])
        self._work = WorkDesk(experts.kernel, self._book, limits, self._keeper, counts, costs)
        report, timeout_s = self.reporter.report, settings.ack_timeout_s
        self._control = ControlDesk(self._book, self._keeper, filler, report, timeout_s)

    @property
    def num_engines(self) -> int:
        """Links that follow the table."""
        return self._control.num_followers

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, and nothing under way."""
        is_at_work = self._is_busy or self._control.num_orders > 0
        return not (is_at_work or (self._book.table.held != EMPTY_SLOT).any())

    def turn(self) -> None:
        """Wait for frames, for an order's time or for `Hub.wake`, and do what there is."""
        due_s, began_s = self._control.due_s(), time.monotonic()
        self.turned_s = began_s
        timeout_s = _IDLE_S if due_s is None else min(_IDLE_S, max(0.0, due_s - began_s))
        ready = self._hub.wait(timeout_s)
        found_s = time.monotonic()
        arrived_s = self._clock.arrived_s(began_s, found_s)
        self._is_busy = True
        for link in ready:
            self._take(link, arrived_s, found_s)
        self._work.serve()
        self._control.go_on(time.monotonic())
        self._keeper.end_turn()
        self._is_busy = False

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other. Between turns."""
        self._control.check_invariants()
        self._work.check_invariants()
        self._slots.check_invariants()
        self._keeper.check_invariants(self._hub.links)
        held = self._book.table.held
        assert (self._slots.held == held)[held != EMPTY_SLOT].all()

    def _take(self, link: Link, arrived_s: float, now_s: float) -> None:
        frame = self._keeper.frame_of(link)
        if frame is None:
            return
        try:
            kind = control.kind_of(frame)
            if kind == control.REQUEST:
                self._work.take(link, frame, arrived_s)
                return
            self._control.take(link, kind, frame, now_s)
        except BadFrameError as error:
            self._keeper.drop(link, str(error))
            return
        if not self._keeper.is_gone(link):
            link.release()

    def _on_gone(self, link: Link) -> None:
        self._control.gone(link)
        self.reporter.forget(link)

"""An expert host: holds copies of experts, and computes what engines ask of them.

One thread, `run`'s, has all links and the kernel. In a *turn* it takes the oldest frame of
each link that has one, computes the requests layer by layer, and answers them. Slots are
filled by another thread meanwhile; what engines are told of them, and which requests may
be computed, is the first one's alone. No peer can hold up the others for longer than
`SEND_TIMEOUT_S`, and then it is gone.
"""

import logging
import threading
import time
import uuid
from pathlib import Path
from typing import Self

from deployments.experts.host.filler import Filler
from deployments.experts.host.reporter import HostState, Reporter
from deployments.experts.host.rows import DTYPE_TO_ROW_TYPE
from deployments.experts.host.settings import HostSettings
from deployments.experts.host.threads import compute_with
from deployments.experts.host.work_desk import WorkDesk
from deployments.experts.kernel_choice import HostExperts, build_experts
from deployments.experts.weights import ExpertReader
from experts.checkpoint.digest import model_digest
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import MoeConfig
from experts.host.arrival import ArrivalClock
from experts.host.control_desk import ControlDesk
from experts.host.link_keeper import LinkKeeper
from experts.host.request_check import HostLimits
from experts.host.slot_book import SlotBook
from experts.host.work_counts import WorkCounts
from experts.host_report import HostReport
from experts.transport import control
from experts.transport.errors import BadFrameError
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link
from experts.types import EMPTY_SLOT, HostId, ModelShape
from infra.errors import ConfigError
from router.dispatch.cost_model import CostModel
from router.dispatch.settings import DispatchSection

log = logging.getLogger(__name__)

_IDLE_S = 1.0


class ExpertHost:
    """One host, from `open` to `close`. `run` serves; the others are for any thread."""

    def __init__(
        self,
        hub: Hub,
        host: HostId,
        experts: HostExperts,
        reader: ExpertReader,
        settings: HostSettings,
    ) -> None:
        """The hub becomes the host's."""
        shape = experts.slots.shape
        self.host = host
        self.addresses: tuple[str, ...] = ()
        """As they are dialled; the best first."""
        self._settings = settings
        self._hub = hub
        self._guard = threading.RLock()
        self._is_running = self._is_closing = self._is_closed = False
        self._is_leaving = self._is_busy = False
        self._failure: BaseException | None = None
        self._slots = experts.slots
        self._book = SlotBook(shape, experts.slots.num_slots)
        counts = WorkCounts(shape.num_layers, shape.num_experts, time.monotonic())
        costs = CostModel(DispatchSection())
        costs.set_hosts([host])
        self._keeper = LinkKeeper(self._on_gone)
        self._filler = Filler(experts.slots, reader, self._wake)
        limits = HostLimits(shape, experts.slots.num_slots, DTYPE_TO_ROW_TYPE[settings.dtype])
        self._work = WorkDesk(experts.kernel, self._book, limits, self._keeper, counts, costs)
        state = HostState(
            host,
            self._book,
            counts,
            costs,
            num_engines=lambda: self._control.num_followers,
            is_leaving=lambda: self._is_leaving,
        )
        self._reporter = Reporter(state)
        self._control = ControlDesk(
            self._book,
            self._keeper,
            self._filler,
            self._reporter.report,
            settings.ack_timeout_s,
        )

    @classmethod
    def open(cls, model_path: Path, settings: HostSettings) -> Self:
        """A host of the model in this folder, with empty slots; peers may dial it.

        Raises:
            ConfigError: the model cannot be served so, or an address cannot be had.
        """
        settings.check()
        reader = CheckpointReader.open(model_path)
        experts = _built(reader.config.shape, settings)
        return cls.of(reader.config, experts, reader, settings)

    @classmethod
    def of(
        cls,
        config: MoeConfig,
        experts: HostExperts,
        reader: ExpertReader,
        settings: HostSettings,
    ) -> Self:
        """The same for experts that come from elsewhere than from the model's folder."""
        host = HostId(f"host-{uuid.uuid4().hex[:16]}")
        hub = Hub(Identity(host, model_digest(config)), settings.link, settings.secret)
        try:
            found = cls(hub, host, experts, reader, settings)
            found._listen()
        except BaseException:
            hub.close()
            raise
        return found

    @property
    def failure(self) -> BaseException | None:
        """What has ended `run`, if it was not `close`."""
        return self._failure

    @property
    def is_empty(self) -> bool:
        """Whether it is leaving, and has nothing more to do or to keep."""
        is_idle = not (self._is_busy or self._control.num_orders)
        is_held = bool((self._book.table.held != EMPTY_SLOT).any())
        return self._is_leaving and is_idle and not is_held

    def report(self) -> HostReport:
        """About the time since the last one that was asked for so."""
        return self._reporter.report(None)

    def leave(self) -> None:
        """Report from now on that the copies should be moved away. It goes on serving."""
        self._is_leaving = True

    def close(self) -> None:
        """Have `run` return, after the turn that it is in; peers are told."""
        with self._guard:
            self._is_closing = True
            if self._is_running:
                self._hub.wake()
                return
        self._give_back()

    def run(self) -> None:
        """Serve until `close`; the calling thread is the one that computes. Once."""
        with self._guard:
            assert not self._is_running, "run is called once"
            if self._is_closing:
                return
            self._is_running = True
        try:
            self._filler.start()
            compute_with(self._settings.num_threads)
            clock = ArrivalClock(time.monotonic())
            while not self._is_closing:
                self._turn(clock)
        except Exception as error:  # the thread's boundary; a health check reads it
            log.exception("the expert host %s has failed", self.host)
            self._failure = error
        finally:
            self._give_back()

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other. Not while it runs."""
        self._control.check_invariants()
        self._work.check_invariants()
        self._slots.check_invariants()
        self._keeper.check_invariants(self._hub.links)
        held = self._book.table.held
        assert (self._slots.held == held)[held != EMPTY_SLOT].all()

    def _turn(self, clock: ArrivalClock) -> None:
        due_s, began_s = self._control.due_s(), time.monotonic()
        timeout_s = _IDLE_S if due_s is None else min(_IDLE_S, max(0.0, due_s - began_s))
        ready = self._hub.wait(timeout_s)
        found_s = time.monotonic()
        arrived_s = clock.arrived_s(began_s, found_s)
        self._is_busy = True
        for link in ready:
            self._take(link, arrived_s, found_s)
        self._work.serve()
        self._control.go_on(time.monotonic())
        self._keeper.end_turn()
        self._is_busy = False

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
        self._reporter.forget(link)

    def _wake(self) -> None:
        with self._guard:
            if self._is_running:
                self._hub.wake()

    def _listen(self) -> None:
        found = [self._hub.listen(f"unix://{self._settings.unix_folder}/{self.host}")]
        if self._settings.tcp_host is not None:
            host = self._settings.tcp_host
            found.append(self._hub.listen(f"tcp://{f'[{host}]' if ':' in host else host}:0"))
        self.addresses = tuple(found)

    def _give_back(self) -> None:
        with self._guard:
            self._is_running, self._is_closing = False, True
            if self._is_closed:
                return
            self._is_closed = True
            self._hub.close()
        self._filler.close()


def _built(shape: ModelShape, settings: HostSettings) -> HostExperts:
    try:
        return build_experts(shape, settings.num_slots, settings.dtype, settings.precision)
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"no memory for {settings.num_slots} slots in each of {shape.num_layers} layers: "
            f"{error}; give the host fewer slots"
        ) from error

"""The director's thread: `experts.director` with real hosts, over links.

Its thread has all links. What others ask of it, they ask under its lock.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence

from deployments.experts.director_links import ASK_INTERVAL_S, HostLinks
from experts.director.director import Director
from experts.director.types import DirectorSettings, DirectorView
from experts.directory import HostCard
from experts.host_report import HostReport
from experts.transport import control
from experts.transport.control import Ordered
from experts.transport.hub import Hub
from experts.transport.link import Identity, LinkSettings
from experts.types import HostId, ModelShape

log = logging.getLogger(__name__)

_MOST_S = ASK_INTERVAL_S / 4
"""Longest sleep: reports and dials are due by the clock."""


class DirectorThread:
    """Directs the hosts of one model from `start` until `close`."""

    def __init__(
        self,
        shape: ModelShape,
        model: str,
        settings: DirectorSettings,
        secret: str | None,
        link: LinkSettings | None = None,
    ) -> None:
        """`model` is its digest."""
        self._director = Director(
            shape.num_layers, shape.num_experts, settings, time.monotonic()
        )
        name = f"director-{uuid.uuid4().hex[:16]}"
        self._hub = Hub(Identity(name, model), link, secret)
        self._links = HostLinks(self._hub, self)
        self._lock = threading.Lock()
        self._news: deque[Sequence[HostCard]] = deque(maxlen=1)
        self._is_closing = False
        # A hub that is closed must not be woken.
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failure: BaseException | None = None
        """What has ended the thread, if it was not `close`."""

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def set_hosts(self, cards: Iterable[HostCard]) -> None:
        """These hosts live, and no others. For any thread; returns at once."""
        self._news.append(tuple(cards))
        self._wake()

    def view(self) -> DirectorView:
        """What is known, and what is done. For any thread; waits while a plan is made."""
        with self._lock:
            return self._director.view(time.monotonic())

    def close(self) -> None:
        """End the thread and its links; orders that are under way go on at their hosts."""
        self._wake()
        with self._gate:
            self._is_closing = True
        if self._thread.is_alive():
            self._thread.join()
        self._hub.close()

    def reported(self, report: HostReport) -> None:
        """See `Listener`."""
        with self._lock:
            self._director.reported(report, time.monotonic())

    def ended(self, host: HostId, ordered: Ordered) -> None:
        """See `Listener`."""
        with self._lock:
            self._director.ended(host, ordered, time.monotonic())

    def lost(self, host: HostId) -> None:
        """See `Listener`."""
        with self._lock:
            self._director.lost(host, time.monotonic())

    def _wake(self) -> None:
        with self._gate:
            if not self._is_closing:
                self._hub.wake()

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._turn()
        except Exception as error:  # the thread's end; a health check tells of it
            self.failure = error
            log.exception("the director has failed")

    def _turn(self) -> None:
        self._take_hosts()
        self._links.dial(time.monotonic())
        self._links.ask(time.monotonic())
        with self._lock:
            orders = self._director.orders(time.monotonic())
        for each in orders:
            log.info("%s is ordered %d moves", each.host, len(each.order.moves))
            self._links.send(each.host, control.order_frame(each.order))
        self._links.hear(self._hub.wait(_MOST_S))

    def _take_hosts(self) -> None:
        if not self._news:
            return
        cards = self._news.popleft()
        self._links.list(cards)
        with self._lock:
            self._director.expect(card.host for card in cards)

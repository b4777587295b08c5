"""The frames of a host that are no work: followers, reports and orders."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from experts.host.link_keeper import LinkKeeper
from experts.host.order_book import ACK_TIMEOUT_S, Fill, FillId, OrderBook
from experts.host.slot_book import SlotBook
from experts.host_report import HostReport
from experts.transport import control
from experts.transport.control import Outcome
from experts.transport.errors import BadFrameError
from experts.transport.link import Link

log = logging.getLogger(__name__)


class SlotFiller(Protocol):
    """Makes moves while the host goes on serving."""

    def begin(self, fill: Fill) -> None:
        """Make these moves after those that were begun before. Never waits."""
        ...

    def ended(self) -> Iterable[tuple[FillId, Sequence[Outcome]]]:
        """Fills that have ended since the last call, with the outcomes of their moves."""
        ...


class ControlDesk:
    """Answers engines and directors, and tells engines what the slots hold."""

    def __init__(
        self,
        book: SlotBook,
        keeper: LinkKeeper,
        filler: SlotFiller,
        report: Callable[[Link], HostReport],
        ack_timeout_s: float = ACK_TIMEOUT_S,
    ) -> None:
        self._book = book
        self._keeper = keeper
        self._filler = filler
        self._report = report
        self._orders = OrderBook[Link](book, ack_timeout_s)

    @property
    def num_followers(self) -> int:
        """Engines that are told of announcements."""
        return len(self._orders.followers)

    @property
    def num_orders(self) -> int:
        """Orders that have not ended."""
        return self._orders.num_open

    def take(self, link: Link, kind: int, frame: memoryview, now_s: float) -> None:
        """Do what a frame asks for. Raises BadFrameError."""
        if kind == control.FOLLOW:
            self._orders.follow(link)
            self._keeper.send(link, control.table_frame(self._book.table))
        elif kind == control.DONE:
            self._orders.acknowledged(link, control.read_done(frame))
        elif kind == control.ASK:
            self._keeper.send(link, control.report_frame(self._report(link)))
        elif kind == control.ORDER:
            order = control.read_order(frame)
            log.info("order %d of %s: %d moves", order.number, link.peer, len(order.moves))
            self._announce(self._orders.begin(link, order, now_s))
        else:
            raise BadFrameError(f"a frame of kind {kind}, which no host is sent")

    def gone(self, link: Link) -> None:
        """The link is closed."""
        self._orders.forget(link)

    def due_s(self) -> float | None:
        """When `go_on` is to be called at the latest."""
        return self._orders.due_s()

    def go_on(self, now_s: float) -> None:
        """Begin the fills that may, and end the orders whose fills have ended."""
        for number, outcomes in self._filler.ended():
            asker, ended, is_news = self._orders.filled(number, outcomes)
            self._announce(is_news)
            if asker is not None:
                self._keeper.send(asker, control.ordered_frame(ended))
        for fill in self._orders.fills(now_s):
            self._filler.begin(fill)

    def check_invariants(self) -> None:
        """Raises AssertionError where slots and orders contradict each other."""
        self._orders.check_invariants()

    def _announce(self, is_news: bool) -> None:
        if is_news:
            frame = control.table_frame(self._book.table)
            for follower in self._orders.followers:
                self._keeper.send(follower, frame)

"""The director's links to expert hosts: dials them, asks them, carries orders to them.

Who may be dialled is told from outside; a link that is there stays until its host is gone,
also where the host is on the list no more, since a host that is to end leaves the list long
before its copies have been moved away.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from experts.directory import HostCard
from experts.host_report import HostReport
from experts.transport import control
from experts.transport.control import Ordered
from experts.transport.errors import BadFrameError, TransportError
from experts.transport.hub import Hub
from experts.transport.link import Link
from experts.types import HostId
from infra.errors import ConfigError

log = logging.getLogger(__name__)

ASK_INTERVAL_S = 1.0
_FIRST_REDIAL_S, _LAST_REDIAL_S = 0.5, 10.0
_SEND_TIMEOUT_S = 2.0


class Listener(Protocol):
    """Who hears what hosts say; called by the thread of the links."""

    def reported(self, report: HostReport) -> None:
        """Raises ConfigError for a host of another model; its link is ended then."""

    def ended(self, host: HostId, ordered: Ordered) -> None:
        """An order has ended."""

    def lost(self, host: HostId) -> None:
        """A host that had a link has none any more."""


@dataclass
class _Peer:
    """A host, with a link or without."""

    card: HostCard
    is_listed: bool = True
    link: Link | None = None
    is_asked: bool = False
    next_ask_s: float = 0.0
    next_dial_s: float = 0.0
    redial_s: float = _FIRST_REDIAL_S


class HostLinks:
    """All of them. Not for several threads at once."""

    def __init__(self, hub: Hub, listener: Listener) -> None:
        self._hub = hub
        self._listener = listener
        self._peers: dict[HostId, _Peer] = {}

    @property
    def linked(self) -> frozenset[HostId]:
        """Hosts that have a link."""
        return frozenset(h for h, peer in self._peers.items() if peer.link is not None)

    def list(self, cards: Iterable[HostCard]) -> None:
        """These hosts are there, and no others come."""
        listed = {card.host: card for card in cards}
        for host, peer in list(self._peers.items()):
            peer.is_listed = host in listed
            if not peer.is_listed and peer.link is None:
                del self._peers[host]
        for host, card in listed.items():
            self._peers.setdefault(host, _Peer(card))

    def dial(self, now_s: float) -> None:
        """Those that have no link and whose time has come. Takes seconds where one is
        there and does not answer."""
        for host, peer in self._peers.items():
            if peer.link is None and now_s >= peer.next_dial_s:
                peer.link = self._dialled(peer.card)
                peer.next_dial_s = now_s + peer.redial_s
                peer.redial_s = min(2 * peer.redial_s, _LAST_REDIAL_S)
                if peer.link is not None:
                    peer.is_asked, peer.next_ask_s = False, now_s
                    log.info("the expert host %s is linked", host)

    def ask(self, now_s: float) -> None:
        """For a report, where the last question has been answered."""
        for host in self.linked:
            peer = self._peers[host]
            if not peer.is_asked and now_s >= peer.next_ask_s:
                peer.is_asked, peer.next_ask_s = True, now_s + ASK_INTERVAL_S
                self.send(host, control.ask_frame())

    def send(self, host: HostId, frame: bytes) -> None:
        """A host that takes no frame counts as lost."""
        peer = self._peers.get(host)
        if peer is None or peer.link is None:
            return
        try:
            peer.link.reserve(len(frame), _SEND_TIMEOUT_S)[:] = frame
            peer.link.commit()
        except TransportError as error:
            self._drop(host, str(error))

    def hear(self, links: Iterable[Link]) -> None:
        """All that has come on these links."""
        by_link = {id(peer.link): host for host, peer in self._peers.items()}
        for link in links:
            host = by_link.get(id(link))
            if host is not None:
                try:
                    self._hear_all(host, link)
                except (TransportError, ConfigError) as error:
                    self._drop(host, str(error))

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself."""
        for host, peer in self._peers.items():
            assert peer.card.host == host
            assert peer.is_listed or peer.link is not None
            assert peer.link is None or peer.link in self._hub.links

    def _hear_all(self, host: HostId, link: Link) -> None:
        while (frame := link.receive()) is not None:
            try:
                self._take(host, frame)
            finally:
                del frame
                link.release()

    def _take(self, host: HostId, frame: memoryview) -> None:
        kind = control.kind_of(frame)
        peer = self._peers[host]
        if kind == control.REPORT:
            report = control.read_report(frame)
            if report.host != host:
                raise BadFrameError(f"{host} reports as {report.host}")
            peer.is_asked = False
            self._listener.reported(report)
            # It is well. Lost from here on, it is dialled again at once.
            peer.next_dial_s, peer.redial_s = 0.0, _FIRST_REDIAL_S
        elif kind == control.ORDERED:
            # Its table is another one now.
            peer.next_ask_s = 0.0
            self._listener.ended(host, control.read_ordered(frame))
        else:
            raise BadFrameError(f"no such frame for a director: kind {kind}")

    def _drop(self, host: HostId, why: str) -> None:
        peer = self._peers[host]
        assert peer.link is not None
        log.warning("the expert host %s has no link any more: %s", host, why)
        peer.link.close()
        peer.link = None
        if not peer.is_listed:
            del self._peers[host]
        self._listener.lost(host)

    def _dialled(self, card: HostCard) -> Link | None:
        for address in card.addresses:
            try:
                link = self._hub.dial(address)
            except (TransportError, ConfigError) as error:
                log.info("no expert host answers at %s: %s", address, error)
                continue
            if link.peer == card.host:
                return link
            # A socket or port that another host has taken over.
            link.close()
        return None

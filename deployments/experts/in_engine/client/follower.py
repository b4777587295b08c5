"""Keeps what an engine rank knows of its expert hosts up to date, in a thread of its own.

For each host of the directory it keeps a link apart from that of the requests, over which
the host tells of its slots. A host whose link is lost is dialled again as long as the
directory has it; what it held is not counted on until it has told its slots anew.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Event, Thread

from deployments.experts.in_engine.client.board import Board, KnownTier
from experts.directory import DirectoryFile, HostCard
from experts.tier_view import TierView
from experts.transport import control
from experts.transport.errors import TransportError
from experts.transport.link import Link, LinkHub
from experts.types import HostId
from infra.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often the directory is looked at."""
SETTLE_S = 0.001
"""How often, while a host waits to be told that nobody asks by its older word."""
DIAL_AGAIN_S = 1.0


@dataclass
class _Followed:
    """A host with a link."""

    link: Link
    address: str
    owed: tuple[int, int] | None = None
    """Version of the host's table, and of the map from which on it is settled."""


class Follower:
    """Not for several threads at once; `run_follower` gives it one of its own."""

    def __init__(
        self,
        hub: LinkHub,
        directory: DirectoryFile,
        view: TierView,
        board: Board,
        clock: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._directory = directory
        self._view = view
        self._board = board
        self._clock = clock
        self._followed: dict[HostId, _Followed] = {}
        self._dial_at_s: dict[HostId, float] = {}
        self._told = 0

    def step(self) -> None:
        """Look for hosts that came or went, and hear what they tell; sleeps in between."""
        self._meet(self._cards())
        is_owing = any(each.owed for each in self._followed.values())
        by_link = {id(each.link): host for host, each in self._followed.items()}
        for link in self._hub.wait(SETTLE_S if is_owing else LOOK_S):
            self._hear(by_link[id(link)])
        self._publish()
        self._settle()

    def close(self) -> None:
        """End all links."""
        self._hub.close()

    def _cards(self) -> Sequence[HostCard]:
        try:
            return self._directory.cards()
        except ConfigError as error:
            log.warning("%s", error)
            return [HostCard(host, (each.address,)) for host, each in self._followed.items()]

    def _meet(self, cards: Iterable[HostCard]) -> None:
        known, now_s = {card.host: card for card in cards}, self._clock()
        for host in self._followed.keys() - known.keys():
            self._lose(host, "it has left")
        self._dial_at_s = {
            host: at_s for host, at_s in self._dial_at_s.items() if host in known
        }
        for host, card in known.items():
            if host not in self._followed and now_s >= self._dial_at_s.get(host, now_s):
                self._dial_at_s[host] = now_s + DIAL_AGAIN_S
                self._dial(card)

    def _dial(self, card: HostCard) -> None:
        why: Exception | None = None
        for address in card.addresses:
            try:
                link = self._hub.dial(address)
            except (TransportError, ConfigError) as error:
                why = error
                continue
            if link.peer == card.host:
                self._follow(card.host, link, address)
                return
            link.close()
        log.info("the expert host %s does not answer: %s", card.host, why)

    def _follow(self, host: HostId, link: Link, address: str) -> None:
        self._followed[host] = _Followed(link, address)
        try:
            _send(link, control.follow_frame())
        except TransportError as error:
            self._lose(host, str(error))

    def _hear(self, host: HostId) -> None:
        """All that a host has told so far."""
        followed = self._followed[host]
        try:
            while (frame := followed.link.receive()) is not None:
                table = control.read_table(frame)
                followed.link.release()
                self._view.announced(host, table)
                # Only now: a table of another model is not owed an answer.
                followed.owed = table.version, self._view.map.version
        except (TransportError, ConfigError) as error:
            self._lose(host, str(error))

    def _publish(self) -> None:
        if self._view.map.version == self._told:
            return
        self._told = self._view.map.version
        versions = {host: table.version for host, table in self._view.tables.items()}
        addresses = {host: self._followed[host].address for host in versions}
        self._board.publish(KnownTier(self._view.map, versions, addresses))

    def _settle(self) -> None:
        for host, followed in tuple(self._followed.items()):
            if followed.owed is None:
                continue
            table_version, map_version = followed.owed
            if not self._board.is_settled(map_version):
                continue
            followed.owed = None
            try:
                _send(followed.link, control.done_frame(table_version))
            except TransportError as error:
                self._lose(host, str(error))

    def _lose(self, host: HostId, why: str) -> None:
        log.warning("the expert host %s is lost: %s", host, why)
        self._followed.pop(host).link.close()
        self._view.lost(host)


def run_follower(make: Callable[[], Follower]) -> Callable[[], None]:
    """Run what `make` makes, in a thread that makes it; call the result to end it."""
    is_over = Event()

    def run() -> None:
        follower = make()
        try:
            while not is_over.is_set():
                follower.step()
        except Exception:
            # The model's thread goes on with what it knows, and sees by itself who is gone.
            log.exception("nobody follows the expert hosts any more")
        finally:
            follower.close()

    thread = Thread(target=run, name="expert-hosts", daemon=True)
    thread.start()

    def end() -> None:
        is_over.set()
        thread.join()

    return end


def _send(link: Link, frame: bytes) -> None:
    # A host reads its links at every turn: no room is a host that hangs.
    link.reserve(len(frame), timeout_s=0.1)[:] = frame
    link.commit()

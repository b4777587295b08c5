"""Sending to peers of which none may hold up the others."""

import logging
from collections.abc import Callable, Iterable

from experts.transport.errors import TransportError
from experts.transport.link import Link

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 0.2
"""A peer that makes no room for so long does not read at all: a link has room for many
answers, and engines await each before they ask again."""


class LinkKeeper:
    """The links of a host; closes those that fail."""

    def __init__(
        self, on_gone: Callable[[Link], None], timeout_s: float = SEND_TIMEOUT_S
    ) -> None:
        """`on_gone` is called once for each link that is closed here."""
        self._on_gone = on_gone
        self._timeout_s = timeout_s
        self._gone: set[Link] = set()

    def end_turn(self) -> None:
        """Links that are gone will not be named again."""
        self._gone.clear()

    def is_gone(self, link: Link) -> bool:
        """Whether the link was closed in this turn."""
        return link in self._gone

    def frame_of(self, link: Link) -> memoryview | None:
        """The oldest frame; None where there is none, or the peer is gone."""
        try:
            return None if link in self._gone else link.receive()
        except TransportError as error:
            self.drop(link, str(error), logging.INFO)
            return None

    def room(self, link: Link, num_bytes: int) -> memoryview | None:
        """Where to write a frame for the peer, then `commit`; None where it is gone."""
        if link in self._gone:
            return None
        try:
            return link.reserve(num_bytes, self._timeout_s)
        except TransportError as error:
            self.drop(link, str(error))
            return None

    def commit(self, link: Link) -> None:
        """Send what was written."""
        try:
            link.commit()
        except TransportError as error:
            self.drop(link, str(error))

    def send(self, link: Link, frame: bytes) -> None:
        """Send a frame that is whole already."""
        room = self.room(link, len(frame))
        if room is not None:
            room[:] = frame
            self.commit(link)

    def drop(self, link: Link, why: str, level: int = logging.WARNING) -> None:
        """Close a link."""
        if link not in self._gone:
            log.log(level, "closed the link to %s: %s", link.peer, why)
            self._gone.add(link)
            link.close()
            self._on_gone(link)

    def check_invariants(self, open_links: Iterable[Link]) -> None:
        """Raises AssertionError where a link that is gone is open."""
        assert self._gone.isdisjoint(open_links)

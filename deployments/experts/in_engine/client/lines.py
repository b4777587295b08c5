"""The model's thread's lines to the hosts that are known, and which may be asked now."""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployments.experts.in_engine.client.board import KnownTier
from deployments.experts.in_engine.client.line import Line
from deployments.experts.in_engine.client.stats import TierStats
from experts.transport.errors import TransportError
from experts.transport.link import LinkHub
from experts.types import HostId
from infra.errors import ConfigError

log = logging.getLogger(__name__)

DIAL_AGAIN_S = 1.0
"""After a line was lost, or could not be had, while the host still tells of its slots."""


class Lines:
    """Not for several threads at once."""

    def __init__(self, hub: LinkHub, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._clock = clock
        self._known: KnownTier | None = None
        self._lines: dict[HostId, Line] = {}
        self._by_link: dict[int, Line] = {}
        self._dial_at_s: dict[HostId, float] = {}
        self.stats = TierStats()
        """Counts bytes, of lines that are lost as well."""

    def know(self, known: KnownTier) -> None:
        """These are the hosts from here on; dials those that are new."""
        self._known = known
        for host in self._lines.keys() - known.addresses.keys():
            self.lose(self._lines[host], "it has told so, or its link was lost")
        self._dial_at_s.clear()
        self._dial()

    def live(self) -> NDArray[np.bool_]:
        """Which of the map's hosts may be asked, read-only. Shape: [num_hosts]."""
        assert self._known is not None
        if len(self._lines) < len(self._known.map.hosts):
            self._dial()
        if any(line.is_late for line in self._lines.values()):
            self._hear_the_late()
        found = bytes(self._is_live(host) for host in self._known.map.hosts)
        return np.frombuffer(found, np.bool_)

    @property
    def all(self) -> tuple[Line, ...]:
        """Those that there are."""
        return tuple(self._lines.values())

    def of(self, host: HostId) -> Line | None:
        """The line to a host, where there is one."""
        return self._lines.get(host)

    def wait(self, timeout_s: float) -> list[Line]:
        """Lines that have something to say, or are lost."""
        return [self._by_link[id(link)] for link in self._hub.wait(timeout_s)]

    def lose(self, line: Line, why: str) -> None:
        """Be without a line."""
        log.warning("no line to the expert host %s: %s", line.host, why)
        del self._lines[line.host], self._by_link[id(line.link)]
        self._dial_at_s[line.host] = self._clock() + DIAL_AGAIN_S
        line.link.close()

    def close(self) -> None:
        """End all lines."""
        self._lines.clear()
        self._by_link.clear()
        self._hub.close()

    def check_invariants(self) -> None:
        """Raises AssertionError where the lines contradict each other."""
        assert self._known is None or self._lines.keys() <= self._known.addresses.keys()
        assert {id(line.link): line for line in self._lines.values()} == self._by_link
        for line in self._lines.values():
            line.check_invariants()

    def _hear_the_late(self) -> None:
        """Drop what late hosts have answered by now. Where all are late nobody is waited for,
        so nobody else would look."""
        self._hub.wait(0.0)
        for line in self.all:
            if not line.is_late:
                continue
            try:
                answer = line.receive(self._clock())
                assert answer is None, "a late host is asked nothing"
            except TransportError as error:
                self.stats.num_lost += 1
                self.lose(line, str(error))

    def _is_live(self, host: HostId) -> bool:
        line = self._lines.get(host)
        return line is not None and not line.is_late

    def _dial(self) -> None:
        assert self._known is not None
        now_s = self._clock()
        for host, address in self._known.addresses.items():
            if host not in self._lines and now_s >= self._dial_at_s.get(host, now_s):
                self._dial_at_s[host] = now_s + DIAL_AGAIN_S
                self._dial_one(host, address)

    def _dial_one(self, host: HostId, address: str) -> None:
        try:
            link = self._hub.dial(address)
        except (TransportError, ConfigError) as error:
            log.info("the expert host %s does not answer: %s", host, error)
            return
        if link.peer != host:
            link.close()
            return
        self._lines[host] = self._by_link[id(link)] = Line(host, link, self.stats)

"""A host: a loop over a hub of links, in a thread that computes, until it is closed.

Expert hosts and draft hosts alike: whoever asks them reaches them by their links alone.
"""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Protocol

from deployments.link_hosts.settings import LinkHostSettings
from deployments.link_hosts.threads import compute_with
from experts.transport.hub import Hub
from experts.types import HostId

log = logging.getLogger(__name__)


class Loop(Protocol):
    """What a host does, turn by turn."""

    turned_s: float
    """When the latest turn began."""

    def turn(self) -> None:
        """Wait for frames, or `Hub.wake`, for a second at most; do what there is."""

    def check_invariants(self) -> None:
        """Raises AssertionError where its parts contradict each other."""


class LinkHost:
    """One life: `run` serves; the others are for any thread.

    Hosts of each kind have a loop, and may have something to begin and to end.
    """

    def __init__(self, host: HostId, hub: Hub, settings: LinkHostSettings) -> None:
        """The hub becomes the host's."""
        self.host = host
        self.addresses = _listened(host, hub, settings.unix_folder, settings.tcp_host)
        """As they are dialled; the best first."""
        self.failure: BaseException | None = None
        """What has ended `run`, if it was not `close`."""
        self._hub = hub
        self._num_threads, self._cores = settings.num_threads, settings.cores
        self._guard = threading.RLock()
        """Of what follows, and of the hub's life. A signal's handler may take it twice."""
        self._is_running = self._is_closing = self._is_closed = False

    @property
    def loop(self) -> Loop:
        """What is done, turn by turn."""
        raise NotImplementedError

    @property
    def turn_s(self) -> float:
        """How long it has been in the turn that it is in: far less than a second of work
        after a second of waiting at most, or it hangs."""
        return time.monotonic() - self.loop.turned_s

    def run(self) -> None:
        """Serve until `close`; the calling thread is the one that computes. Once."""
        with self._guard:
            assert not self._is_running, "run is called once"
            if self._is_closing:
                return
            self._is_running = True
        try:
            if self._cores is not None:
                # A thread that is started may run where the one may that starts it.
                os.sched_setaffinity(0, self._cores)
            self._begin()
            compute_with(self._num_threads, self._cores)
            while not self._is_closing:
                self.loop.turn()
        except Exception as error:  # the thread's boundary; a health check reads it
            log.exception("the host %s has failed", self.host)
            self.failure = error
        finally:
            self._give_back()

    def wake(self) -> None:
        """End the wait of the turn that runs, if one does."""
        with self._guard:
            if self._is_running:
                self._hub.wake()

    def close(self) -> None:
        """Have `run` return, after the turn that it is in; peers are told."""
        with self._guard:
            self._is_closing = True
            if self._is_running:
                self._hub.wake()
                return
        self._give_back()

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other. Not while it runs."""
        assert self._is_closing or not self._is_closed
        assert not (self._is_running and self._is_closed)
        self.loop.check_invariants()

    def _begin(self) -> None:
        """By the thread that runs, on its cores and before it computes."""

    def _end(self) -> None:
        """Once, when the hub is closed."""

    def _give_back(self) -> None:
        with self._guard:
            self._is_running, self._is_closing = False, True
            if self._is_closed:
                return
            self._is_closed = True
            self._hub.close()
        self._end()


def _listened(
    host: HostId, hub: Hub, unix_folder: Path, tcp_host: str | None
) -> tuple[str, ...]:
    """Where the hub listens for the host. Raises ConfigError."""
    near = hub.listen(f"unix://{unix_folder}/{host}")
    if tcp_host is None:
        return (near,)
    name = f"[{tcp_host}]" if ":" in tcp_host else tcp_host
    return near, hub.listen(f"tcp://{name}:0")

"""Runs a host's loop over a hub of links, in a thread that computes, until it is closed.

Expert hosts and draft hosts alike: whoever asks them reaches them by their links alone.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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


@dataclass(frozen=True)
class Threads:
    """That compute."""

    num: int = 1
    cores: Sequence[int] | None = None
    """One for each thread, see `threads`; None: anywhere."""


def nothing() -> None:
    """Of a host that has no more to begin or to end."""


class HostRunner:
    """One life: `run` serves; the others are for any thread."""

    def __init__(
        self,
        host: HostId,
        hub: Hub,
        threads: Threads,
        on_start: Callable[[], None] = nothing,
        on_end: Callable[[], None] = nothing,
    ) -> None:
        """The hub becomes the runner's. `on_start` is called by the thread that runs, on its
        cores and before it computes; `on_end` once, when the hub is closed."""
        self.failure: BaseException | None = None
        """What has ended `run`, if it was not `close`."""
        self._host = host
        self._hub = hub
        self._threads = threads
        self._on_start, self._on_end = on_start, on_end
        self._guard = threading.RLock()
        """Of what follows, and of the hub's life. A signal's handler may take it twice."""
        self._is_running = self._is_closing = self._is_closed = False

    def run(self, loop: Loop) -> None:
        """Serve until `close`; the calling thread is the one that computes. Once."""
        with self._guard:
            assert not self._is_running, "run is called once"
            if self._is_closing:
                return
            self._is_running = True
        try:
            if self._threads.cores is not None:
                # A thread that is started may run where the one may that starts it.
                os.sched_setaffinity(0, self._threads.cores)
            self._on_start()
            compute_with(self._threads.num, self._threads.cores)
            while not self._is_closing:
                loop.turn()
        except Exception as error:  # the thread's boundary; a health check reads it
            log.exception("the host %s has failed", self._host)
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
        """Raises AssertionError where the parts contradict each other."""
        assert self._is_closing or not self._is_closed
        assert not (self._is_running and self._is_closed)

    def _give_back(self) -> None:
        with self._guard:
            self._is_running, self._is_closing = False, True
            if self._is_closed:
                return
            self._is_closed = True
            self._hub.close()
        self._on_end()


def turn_s(loop: Loop) -> float:
    """How long the loop has been in the turn that it is in: far less than a second of work
    after a second of waiting at most, or it hangs."""
    return time.monotonic() - loop.turned_s


def listened(
    host: HostId, hub: Hub, unix_folder: Path, tcp_host: str | None
) -> tuple[str, ...]:
    """Where the hub listens for the host, as it is dialled; the best first.

    `tcp_host` is this node's name or address for others; None where there are none. Raises
    ConfigError.
    """
    near = hub.listen(f"unix://{unix_folder}/{host}")
    if tcp_host is None:
        return (near,)
    name = f"[{tcp_host}]" if ":" in tcp_host else tcp_host
    return near, hub.listen(f"tcp://{name}:0")

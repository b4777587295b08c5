"""A link on one node: two rings in shared memory.

What it costs for a frame: no copy but the writer's own writing, no system call while the
other end is awake, one to wake it (and its sleep).
"""

import contextlib
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experts.transport.bell import Bell, PeerBell
from experts.transport.errors import (
    BadFrameError,
    FrameTooLargeError,
    LinkTimeoutError,
    PeerLostError,
)
from experts.transport.ring import RingReader, RingWriter


@dataclass(frozen=True)
class LocalPeer:
    """The process at the other end."""

    name: str
    connection: socket.socket
    """Carries nothing after the set-up: the kernel closes it when the process ends."""
    process_fd: int | None
    """Tells the end of a process whose forked children have the connection too. None
    where the process cannot be seen from here (another container)."""
    bell: PeerBell

    @property
    def fds(self) -> tuple[int, ...]:
        """Can be read from when the peer is gone."""
        connection = self.connection.fileno()
        return (connection,) if self.process_fd is None else (connection, self.process_fd)

    def is_gone(self) -> bool:
        """One system call."""
        return bool(_poll(self.fds).poll(0))

    def close(self) -> None:
        """Give the descriptors back."""
        self.connection.close()
        self.bell.close()
        if self.process_fd is not None:
            os.close(self.process_fd)


class LocalLink:
    """See `experts.transport.link.Link`."""

    def __init__(
        self,
        peer: LocalPeer,
        rings: tuple[RingReader, RingWriter],
        bell: Bell,
        max_frame_bytes: int,
        on_close: Callable[["LocalLink"], None],
    ) -> None:
        self._process = peer
        self._reader, self._writer = rings
        self._bell = bell
        self._max_frame_bytes = max_frame_bytes
        self._on_close = on_close
        self._lost: str | None = None
        self._is_closed = False

    @property
    def peer(self) -> str:
        """See `Link`."""
        return self._process.name

    @property
    def fds(self) -> tuple[int, ...]:
        """Can be read from when the peer is gone; `check_peer` is then to be called."""
        return self._process.fds

    @property
    def max_frame_bytes(self) -> int:
        """See `Link`."""
        return self._max_frame_bytes

    @property
    def is_ready(self) -> bool:
        """See `Link`."""
        return self._reader.has_frame or self._lost is not None

    @property
    def is_lost(self) -> bool:
        """Whether the peer is known to be gone."""
        return self._lost is not None

    def reserve(self, num_bytes: int, timeout_s: float) -> memoryview:
        """See `Link`."""
        self._check()
        if not 0 <= num_bytes <= self._max_frame_bytes:
            raise FrameTooLargeError(
                f"{num_bytes} bytes, where a frame to {self.peer} has at most "
                f"{self._max_frame_bytes}"
            )
        frame = self._writer.reserve(num_bytes)
        return self._await_room(num_bytes, timeout_s) if frame is None else frame

    def commit(self) -> None:
        """See `Link`."""
        self._check()
        if self._writer.commit():
            self._process.bell.ring()

    def receive(self) -> memoryview | None:
        """See `Link`."""
        assert not self._is_closed, "the link is closed"
        try:
            frame = self._reader.frame()
        except BadFrameError as error:
            self._lost = f"{self.peer} has broken its ring: {error}"
            raise PeerLostError(self._lost) from error
        if frame is None:
            self._check()
        return frame

    def release(self) -> None:
        """See `Link`."""
        if self._reader.release() and not self._is_closed:
            self._process.bell.ring()

    def close(self) -> None:
        """See `Link`."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)
            self._process.close()

    def check_peer(self) -> None:
        """Look whether the peer lives. One system call."""
        if not self._is_closed and self._lost is None and self._process.is_gone():
            self._lost = f"{self.peer} is gone: it closed the link, or its process ended"

    def check_invariants(self) -> None:
        """Raises AssertionError where the link contradicts itself."""
        self._writer.check_invariants()
        assert self._is_closed == (self._process.connection.fileno() < 0)

    def _check(self) -> None:
        assert not self._is_closed, "the link is closed"
        if self._lost is not None:
            raise PeerLostError(self._lost)

    def _await_room(self, num_bytes: int, timeout_s: float) -> memoryview:
        deadline = time.monotonic() + timeout_s
        wake = _poll((self._bell.fd, *self._process.fds))
        while True:
            with self._awaiting_room():
                self._bell.hush()
                frame = self._writer.reserve(num_bytes)
                if frame is not None:
                    return frame
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise LinkTimeoutError(f"{self.peer} made no room in {timeout_s} s")
                wake.poll(math.ceil(left_s * 1000))
            self.check_peer()
            self._check()

    @contextlib.contextmanager
    def _awaiting_room(self) -> Iterator[None]:
        self._bell.await_room()
        try:
            yield
        finally:
            self._bell.has_room()


def _poll(fds: tuple[int, ...]) -> select.poll:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN | select.POLLRDHUP)
    return poll

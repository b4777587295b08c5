"""What a thread sleeps on: descriptors, each with what is done when it can be read."""

import select
from collections.abc import Callable

READ = select.EPOLLIN
NEWLY = select.EPOLLET
"""Only when there is more to read than at the last call."""
HANG_UP = select.EPOLLRDHUP
_MAX_EVENTS = 64


class Poller:
    """An epoll set. A call may come once too often, where a descriptor is used anew."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fd_to_call: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, call: Callable[[], None], events: int = READ) -> None:
        """Call when it can be read, or its other end is gone."""
        self._epoll.register(fd, events)
        self._fd_to_call[fd] = call

    def unwatch(self, fd: int) -> None:
        """Before the descriptor is closed. One that is not watched is left alone."""
        if self._fd_to_call.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def poll(self, timeout_s: float) -> None:
        """Sleep until there is something to call, at most for so long, and call it."""
        for fd, _ in self._epoll.poll(max(0.0, timeout_s), _MAX_EVENTS):
            call = self._fd_to_call.get(fd)
            if call is not None:
                call()

    def close(self) -> None:
        """Give the set back; the descriptors are their owners'."""
        self._epoll.close()

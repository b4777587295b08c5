"""A connection between a client and a server that can be cut."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self


class Relay:
    """A way to a server that can be cut in the middle of a call; then it opens again."""

    def __init__(self, address: str, num_silent: int = 0) -> None:
        """The first `num_silent` connections are taken, and nothing is done with them: so does
        a gateway that stands still, beside others at the same port."""
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._flows: list[threading.Event] = []
        self._num_silent = num_silent

    def cut_when(self, is_time: Callable[[], object]) -> None:
        _wait(is_time)
        self._cut()

    def hang_when(self, is_time: Callable[[], object]) -> None:
        """Connections that there are stay, and nothing comes through any more."""
        _wait(is_time)
        for flow in self._flows:
            flow.clear()

    def _cut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for flow in self._flows:
            flow.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._num_silent:
                    self._num_silent -= 1
                    self._ends.append(near)
                    continue
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                flow = threading.Event()
                flow.set()
                self._flows.append(flow)
                for ends in ((near, far, flow), (far, near, flow)):
                    threading.Thread(target=_carry, args=ends, daemon=True).start()


def _wait(is_time: Callable[[], object]) -> None:
    while not is_time():
        time.sleep(0.01)


def _carry(source: socket.socket, target: socket.socket, flow: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            flow.wait()
            target.sendall(data)

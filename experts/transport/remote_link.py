"""A link between nodes: messages of ZeroMQ over TCP, encrypted by CURVE.

What it costs for a frame: the writer's bytes are copied into a message, which a thread of
ZeroMQ's encrypts (XSalsa20-Poly1305) and writes to the socket; on the other side such a
thread reads and decrypts it, and `receive` copies it to where it begins at a multiple of
64. The two copies of ours are a hundredth of the time that the encryption takes.

A message is 16 bytes, and what its kind says:

| kind    | the rest                                              |
|---------|-------------------------------------------------------|
| HELLO   | `Hello`, from who dials                               |
| ANSWER  | `Welcome` or `Refusal`                                |
| FRAME   | the frame                                             |
| CREDIT  | nothing: it is sent for the count of released bytes   |
| GOODBYE | nothing: the link is closed                           |

The 16 bytes are the kind and the sender's count of released bytes (`Window`), 8 each.
"""

import enum
import math
import select
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from experts.transport.errors import (
    BadFrameError,
    FrameTooLargeError,
    LinkTimeoutError,
    PeerLostError,
)
from experts.transport.link import LINE_BYTES, span_bytes
from experts.transport.ring import ring_bytes
from experts.transport.window import Window

PREFIX = struct.Struct("<QQ")


class Kind(enum.IntEnum):
    """See the module."""

    HELLO = 1
    ANSWER = 2
    FRAME = 3
    CREDIT = 4
    GOODBYE = 5


class Post(Protocol):
    """Where a link's messages go and come from: a socket, of this link or of many."""

    @property
    def fds(self) -> tuple[int, ...]:
        """One can be read from when `collect` has something to do, after it was called."""
        ...

    def send(self, message: memoryview) -> None:
        """Copies it. Never waits. Raises PeerLostError."""
        ...

    def collect(self) -> None:
        """Hand what has come to the links that it is for. Never waits."""
        ...


def message(kind: Kind, content: bytes = b"", released: int = 0) -> memoryview:
    """A message that carries no frame."""
    return memoryview(PREFIX.pack(kind, released) + content)


class RemoteLink:
    """See `experts.transport.link.Link`."""

    def __init__(
        self,
        peer: str,
        max_frame_bytes: int,
        post: Post,
        on_close: Callable[["RemoteLink"], None],
    ) -> None:
        self._peer = peer
        self._max_frame_bytes = max_frame_bytes
        self._post = post
        self._on_close = on_close
        self._window = Window(ring_bytes(max_frame_bytes))
        self._arrived: deque[memoryview] = deque()
        self._message = _buffer(PREFIX.size, max_frame_bytes)
        self._frame = _buffer(0, max_frame_bytes)
        self._is_received = False
        """Whether the oldest frame that has arrived is in `_frame`."""
        self._reserved_bytes: int | None = None
        self._lost: str | None = None
        self._is_closed = False

    @property
    def peer(self) -> str:
        """See `Link`."""
        return self._peer

    @property
    def max_frame_bytes(self) -> int:
        """See `Link`."""
        return self._max_frame_bytes

    @property
    def is_ready(self) -> bool:
        """See `Link`. After `Post.collect`."""
        return bool(self._arrived) or self._lost is not None

    def reserve(self, num_bytes: int, timeout_s: float) -> memoryview:
        """See `Link`."""
        self._check()
        if not 0 <= num_bytes <= self._max_frame_bytes:
            raise FrameTooLargeError(
                f"{num_bytes} bytes, where a frame to {self._peer} has at most "
                f"{self._max_frame_bytes}"
            )
        if not self._window.has_room(span_bytes(num_bytes)):
            self._await_room(num_bytes, timeout_s)
        self._reserved_bytes = num_bytes
        return self._message[PREFIX.size : PREFIX.size + num_bytes]

    def commit(self) -> None:
        """See `Link`."""
        self._check()
        assert self._reserved_bytes is not None, "reserve first"
        num_bytes, self._reserved_bytes = self._reserved_bytes, None
        PREFIX.pack_into(self._message, 0, Kind.FRAME, self._window.tell())
        self._window.send(span_bytes(num_bytes))
        self._send(self._message[: PREFIX.size + num_bytes])
        self._check()

    def receive(self) -> memoryview | None:
        """See `Link`."""
        assert not self._is_closed, "the link is closed"
        if not self._arrived:
            self._post.collect()
        if not self._arrived:
            self._check()
            return None
        frame = self._frame[: len(self._arrived[0])]
        if not self._is_received:
            frame[:] = self._arrived[0]
            self._is_received = True
        return frame.toreadonly()

    def release(self) -> None:
        """See `Link`."""
        assert self._is_received, "there is no frame"
        self._is_received = False
        self._window.release(span_bytes(len(self._arrived.popleft())))
        if self._window.must_tell:
            credit = message(Kind.CREDIT, released=self._window.tell())
            if self._lost is None and not self._is_closed:
                self._send(credit)

    def close(self) -> None:
        """See `Link`."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)

    @property
    def is_lost(self) -> bool:
        """Whether the peer is known to be gone."""
        return self._lost is not None

    def lose(self, reason: str) -> None:
        """The peer is gone."""
        if self._lost is None:
            self._lost = f"{self._peer} is gone: {reason}"

    def arrive(self, data: memoryview) -> None:
        """A message of this link has come. One that makes no sense loses the link."""
        try:
            self._arrive(data)
        except (BadFrameError, struct.error) as error:
            self.lose(f"it sent what makes no sense: {error}")

    def check_invariants(self) -> None:
        """Raises AssertionError where the link contradicts itself."""
        self._window.check_invariants()
        assert self._reserved_bytes is None or self._reserved_bytes <= self._max_frame_bytes

    def _arrive(self, data: memoryview) -> None:
        kind, released = PREFIX.unpack_from(data)
        self._window.peer_has_released(released)
        if kind == Kind.FRAME:
            frame = data[PREFIX.size :]
            if len(frame) > self._max_frame_bytes:
                raise BadFrameError(f"{len(frame)} bytes in a frame")
            self._window.receive(span_bytes(len(frame)))
            self._arrived.append(frame)
        elif kind == Kind.GOODBYE:
            self.lose("it closed the link")
        elif kind != Kind.CREDIT:
            raise BadFrameError(f"a message of kind {kind}")

    def _check(self) -> None:
        assert not self._is_closed, "the link is closed"
        if self._lost is not None:
            raise PeerLostError(self._lost)

    def _send(self, data: memoryview) -> None:
        try:
            self._post.send(data)
        except PeerLostError as error:
            self.lose(str(error))

    def _await_room(self, num_bytes: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        wake = select.poll()
        for fd in self._post.fds:
            wake.register(fd, select.POLLIN)
        while True:
            self._post.collect()
            self._check()
            if self._window.has_room(span_bytes(num_bytes)):
                return
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LinkTimeoutError(f"{self._peer} made no room in {timeout_s} s")
            wake.poll(math.ceil(left_s * 1000))


def _buffer(num_before: int, num_bytes: int) -> memoryview:
    """So many bytes that begin at a multiple of 64, after so many others."""
    memory = np.empty(LINE_BYTES + num_before + num_bytes, np.uint8)
    start = -(memory.ctypes.data + num_before) % LINE_BYTES
    return memory.data[start : start + num_before + num_bytes]

"""Links: frames in both directions between one engine rank and one expert host.

A *frame* is a number of bytes that arrives whole, written in place and read in place.
A *hub* has all links of one thread, and waits for all of them at once. Its *identity* is
what it tells at the set-up of a link.

Each direction of a link holds a bounded number of bytes that are not yet released, so a
reader that does not keep up makes its writer wait. Worked example: with the default
settings a direction has room for two frames of 4 MiB, or for 21,845 of 300 bytes (a frame
takes 64 bytes and its own length, rounded up to 64).
"""

from dataclasses import dataclass
from typing import Protocol

LINE_BYTES = 64
"""A cache line: where frames begin, and what they are rounded up to."""


def span_bytes(num_bytes: int) -> int:
    """Room that a frame of so many bytes takes."""
    return LINE_BYTES + -(-num_bytes // LINE_BYTES) * LINE_BYTES


@dataclass(frozen=True)
class LinkSettings:
    """Limits of a hub's links.

    `max_frame_bytes` of a link is that of the side that dials; the other side refuses
    more than its own. A link on one node takes four times as much memory at once.
    """

    max_frame_bytes: int = 4 * 1024 * 1024
    set_up_timeout_s: float = 5.0
    """From dialling to the answer."""
    silence_s: float = 5.0
    """Between nodes: a peer that is silent for this long counts as lost."""
    spin_s: float = 0.0
    """How long a wait looks on before it sleeps. It burns the core."""

    def __post_init__(self) -> None:
        assert self.max_frame_bytes > 0
        assert self.set_up_timeout_s > 0
        assert self.silence_s > 0
        assert self.spin_s >= 0


@dataclass(frozen=True)
class Identity:
    """Who a hub is."""

    name: str
    """For the peer's `Link.peer`; an expert host gives its `HostId`."""
    model: str
    """Digest of the model; both ends must have the same."""


class Link(Protocol):
    """One end of a link. All calls are made by the thread of the link's hub.

    Of each direction the frames arrive whole and in order, or the link is lost. Two
    ends that both wait for room, and read nothing meanwhile, wait in vain.
    """

    @property
    def peer(self) -> str:
        """The name in the identity of the other end."""
        ...

    @property
    def max_frame_bytes(self) -> int:
        """Of both directions."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether `receive` has something to say: a frame, or that the peer is lost.

        Takes a microsecond; no system call on one node.
        """
        ...

    def reserve(self, num_bytes: int, timeout_s: float) -> memoryview:
        """Bytes to write the next frame into, valid until `commit`; what they hold is
        not defined. They begin at a multiple of 64, as what is received does.

        Nothing is sent yet, and another `reserve` takes the place of this one. Waits for
        room in the kernel. Raises FrameTooLargeError, LinkTimeoutError, PeerLostError.
        """
        ...

    def commit(self) -> None:
        """Send the reserved frame. Never waits; the frame is no longer ours to write.

        That it returns does not say that the peer lives. Raises PeerLostError.
        """
        ...

    def receive(self) -> memoryview | None:
        """The oldest frame, to be read until `release`; None where there is none.

        Says the same until `release`. Frames that came before the peer was lost are
        still given; after them it raises PeerLostError, each time, until `close`.
        """
        ...

    def release(self) -> None:
        """Give the received frame's room back. No view of it may be used after that."""
        ...

    def close(self) -> None:
        """End the link; the peer is told. What the peer has not received yet may be lost.

        May be called twice, and must be called on a link that is lost.
        """
        ...


class LinkHub(Protocol):
    """The links of one thread."""

    @property
    def links(self) -> tuple[Link, ...]:
        """Those that are not closed, also those that a peer has dialled."""
        ...

    def listen(self, address: str) -> str:
        """Take links at `unix:///PATH` or `tcp://HOST:PORT`; a port of 0 means any.

        Returns the address as it is dialled. Peers get in while `wait` runs. Raises
        ConfigError where that cannot be.
        """
        ...

    def dial(self, address: str) -> Link:
        """A link to who listens there; waits at most `set_up_timeout_s`.

        Raises RefusedError with the other end's reason, PeerLostError where nobody
        answers, ConfigError for an address that is none.
        """
        ...

    def wait(self, timeout_s: float) -> list[Link]:
        """The links that are ready; none where the time is over or `wake` was called.

        Sleeps in the kernel and lets other threads run meanwhile. A link that is lost
        is ready until it is closed.
        """
        ...

    def wake(self) -> None:
        """End the wait that runs, or the next. For any thread."""
        ...

    def close(self) -> None:
        """Close all links and give everything back. Waits at most half a second."""
        ...

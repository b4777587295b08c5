"""Links of a host whose other end is the test."""

from experts.transport.errors import LinkTimeoutError, PeerLostError


class FakeLink:
    """A `Link` that keeps what is sent, and gives what it is told to."""

    max_frame_bytes = 4096

    def __init__(self, peer: str = "engine", has_room: bool = True) -> None:
        self.peer = peer
        self.has_room = has_room
        self.is_lost = False
        self.is_closed = False
        self.to_give: list[bytes] = []
        self._sent: list[bytes] = []
        self._reserved: bytearray | None = None

    @property
    def is_ready(self) -> bool:
        return bool(self.to_give) or self.is_lost

    def reserve(self, num_bytes: int, timeout_s: float) -> memoryview:
        self._check()
        if not self.has_room:
            raise LinkTimeoutError(f"no room in {timeout_s} s")
        self._reserved = bytearray(num_bytes)
        return memoryview(self._reserved)

    def commit(self) -> None:
        self._check()
        assert self._reserved is not None
        self._sent.append(bytes(self._reserved))
        self._reserved = None

    def receive(self) -> memoryview | None:
        assert not self.is_closed
        if self.to_give:
            return memoryview(self.to_give[0])
        self._check()
        return None

    def release(self) -> None:
        self.to_give.pop(0)

    def close(self) -> None:
        self.is_closed = True

    def sent(self) -> list[memoryview]:
        """What was sent since the last call."""
        found, self._sent = self._sent, []
        return [memoryview(frame) for frame in found]

    def _check(self) -> None:
        assert not self.is_closed
        if self.is_lost:
            raise PeerLostError("gone")

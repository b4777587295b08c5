"""How much a link between nodes holds that is not released: what a ring's size is to one.

Each end counts the bytes (`span_bytes`) that it has sent and released since the link began.
It tells its count of released bytes with everything that it sends, and by itself once half
a window was released untold. So a writer that waits for room gets it: of what its peer
has released, at most half a window is not known to it, and no frame takes more than half.
"""

from experts.transport.errors import BadFrameError


class Window:
    """The counts of one end. A pure structure."""

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes > 0
        self._size = size_bytes
        self._sent = 0
        self._sent_released = 0
        self._received = 0
        self._released = 0
        self._told = 0

    def has_room(self, span: int) -> bool:
        """Whether a frame of this span may be sent."""
        assert 2 * span <= self._size
        return self._sent + span - self._sent_released <= self._size

    def send(self, span: int) -> None:
        """A frame is sent."""
        self._sent += span

    def peer_has_released(self, total: int) -> None:
        """What came with a message. Raises BadFrameError for a count that cannot be."""
        if not self._sent_released <= total <= self._sent:
            raise BadFrameError(f"{total} bytes released, of {self._sent} sent")
        self._sent_released = total

    def receive(self, span: int) -> None:
        """A frame has come. Raises BadFrameError for one that the peer may not send."""
        if self._received + span - self._released > self._size:
            raise BadFrameError(f"more than the {self._size} bytes that may be on their way")
        self._received += span

    def release(self, span: int) -> None:
        """A frame that has come is read."""
        self._released += span

    @property
    def must_tell(self) -> bool:
        """Whether the peer is to be told now what was released."""
        return 2 * (self._released - self._told) >= self._size

    def tell(self) -> int:
        """The count for a message that is sent now."""
        self._told = self._released
        return self._released

    def check_invariants(self) -> None:
        """Raises AssertionError where the counts contradict each other."""
        assert 0 <= self._sent_released <= self._sent <= self._sent_released + self._size
        assert 0 <= self._told <= self._released <= self._received
        assert self._received - self._released <= self._size
        assert not self.must_tell

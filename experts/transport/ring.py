"""A ring of frames in shared memory, with one writer and one reader.

| bytes            | what                                     | written by |
|------------------|------------------------------------------|------------|
| [0, 8)           | tail: bytes ever committed               | the writer |
| [64, 72)         | head: bytes ever released                | the reader |
| [4096, 4096 + n) | n bytes of frames; n is a multiple of 64 | the writer |

Tail and head only grow; a frame at `position` is in [position % n, ...). It is its length
in 8 bytes, 56 unused ones, and its bytes, rounded up to 64. A frame is never broken: where
it does not fit before the end of the ring, the length `_SKIP` says that it is at the start.
Since a ring has room for two of its largest frames, an empty one takes any frame.

The reader trusts no number of the writer's to stay within the ring. What a frame holds it
may find changed while it reads: the two are processes of one user.

Worked example: a ring of 256 bytes. A frame of 100 bytes takes [0, 192), tail is 192. It
is released, head is 192. The next one of 100 bytes does not fit in [192, 256): there is
`_SKIP`, the frame takes [0, 192), and tail is 256 + 192.
"""

import numpy as np
from numpy.typing import NDArray

from experts.transport.errors import BadFrameError
from experts.transport.link import LINE_BYTES, span_bytes
from experts.transport.shared_word import SharedWord

_CONTROL_BYTES = 4096
_TAIL, _HEAD = 0, 64
_SKIP = 2**64 - 1


def ring_bytes(max_frame_bytes: int) -> int:
    """Bytes of frames in a ring for frames up to this size."""
    return 2 * span_bytes(max_frame_bytes)


def memory_bytes(max_frame_bytes: int) -> int:
    """Memory of such a ring."""
    return _CONTROL_BYTES + ring_bytes(max_frame_bytes)


class RingWriter:
    """The writing end. `awaited` is a word that is not 0 while the reader waits."""

    def __init__(self, memory: NDArray[np.uint8], awaited: SharedWord) -> None:
        self._frames = memory.data[_CONTROL_BYTES:]
        self._lengths = self._frames.cast("Q")
        self._size = len(self._frames)
        assert self._size % LINE_BYTES == 0
        self._tail_word, self._head_word = SharedWord(memory, _TAIL), SharedWord(memory, _HEAD)
        self._awaited = awaited
        self._tail = 0
        self._head = 0
        self._reserved: int | None = None
        """Where the tail will be after `commit`."""

    def reserve(self, num_bytes: int) -> memoryview | None:
        """Room for a frame of at most half the ring, or None. No system call."""
        span = span_bytes(num_bytes)
        assert 2 * span <= self._size
        start = self._tail % self._size
        skipped = 0 if start + span <= self._size else self._size - start
        if not self._has_room(skipped + span):
            return None
        if skipped:
            self._lengths[start // 8] = _SKIP
            start = 0
        self._lengths[start // 8] = num_bytes
        self._reserved = self._tail + skipped + span
        return self._frames[start + LINE_BYTES : start + LINE_BYTES + num_bytes]

    def commit(self) -> bool:
        """Show the reserved frame to the reader, and say whether it waits for one."""
        assert self._reserved is not None, "reserve first"
        self._tail, self._reserved = self._reserved, None
        return self._tail_word.store_then_load(self._tail, self._awaited) != 0

    def check_invariants(self) -> None:
        """Raises AssertionError where the words contradict each other."""
        head = self._head_word.load()
        assert self._head <= head <= self._tail == self._tail_word.load()
        assert self._tail - head <= self._size
        assert self._tail % LINE_BYTES == head % LINE_BYTES == 0

    def _has_room(self, num_bytes: int) -> bool:
        if self._tail + num_bytes - self._head <= self._size:
            return True
        self._head = self._head_word.load()
        return self._tail + num_bytes - self._head <= self._size


class RingReader:
    """The reading end. `awaited` is a word that is not 0 while the writer waits for room."""

    def __init__(self, memory: NDArray[np.uint8], awaited: SharedWord) -> None:
        self._frames = memory.data[_CONTROL_BYTES:].toreadonly()
        self._lengths = self._frames.cast("Q")
        self._size = len(self._frames)
        self._tail_word, self._head_word = SharedWord(memory, _TAIL), SharedWord(memory, _HEAD)
        self._awaited = awaited
        self._head = 0
        self._end: int | None = None
        """Where the head will be after `release`."""

    @property
    def has_frame(self) -> bool:
        """Whether something is there that is not released. No system call."""
        return self._tail_word.load() != self._head

    def frame(self) -> memoryview | None:
        """The oldest frame, or None. Raises BadFrameError where the ring makes no sense."""
        tail = self._tail_word.load()
        if tail == self._head:
            return None
        if not (0 < tail - self._head <= self._size):
            raise BadFrameError(f"the ring's tail is {tail}, its head {self._head}")
        position = self._head
        num_bytes = self._lengths[position % self._size // 8]
        if num_bytes == _SKIP:
            position += self._size - position % self._size
            num_bytes = self._lengths[0]
        start = position % self._size
        span = span_bytes(num_bytes)
        if position + span > tail or start + span > self._size:
            raise BadFrameError(f"a frame of {num_bytes} bytes does not fit into the ring")
        self._end = position + span
        return self._frames[start + LINE_BYTES : start + LINE_BYTES + num_bytes]

    def release(self) -> bool:
        """Give the frame's room back, and say whether the writer waits for some."""
        assert self._end is not None, "there is no frame"
        self._head, self._end = self._end, None
        return self._head_word.store_then_load(self._head, self._awaited) != 0

"""The ring, against a queue of byte strings."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from experts.transport.errors import BadFrameError
from experts.transport.link import span_bytes
from experts.transport.ring import RingReader, RingWriter, memory_bytes, ring_bytes
from experts.transport.shared_word import SharedWord

MAX_FRAME_BYTES = 130  # a ring of 512 bytes
TAIL, SKIP = 0, 2**64 - 1


class Ends:
    """Both ends of a ring, and the words that say whether they wait."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        size = memory_bytes(max_frame_bytes)
        unaligned = np.zeros(size + 64, np.uint8)
        start = -unaligned.ctypes.data % 64
        self.memory: NDArray[np.uint8] = unaligned[start : start + size]
        waits = np.zeros(16, np.uint8)
        self.reader_waits, self.writer_waits = SharedWord(waits, 0), SharedWord(waits, 8)
        self.writer = RingWriter(self.memory, self.reader_waits)
        self.reader = RingReader(self.memory, self.writer_waits)

    def write(self, content: bytes) -> bool:
        """Whether there was room."""
        room = self.writer.reserve(len(content))
        if room is None:
            return False
        room[:] = content
        self.writer.commit()
        return True

    def read(self) -> bytes | None:
        frame = self.reader.frame()
        if frame is None:
            return None
        content = bytes(frame)
        self.reader.release()
        return content


def test_the_worked_example_of_the_module() -> None:
    ends = Ends(max_frame_bytes=64)
    assert ring_bytes(64) == 256
    first = bytes(range(60))
    assert ends.write(first)
    assert ends.read() == first
    # A frame at the end is not broken: 192 + 128 would be beyond 256.
    assert ends.write(b"a")
    assert ends.memory[4096 + 128] == 1
    assert ends.read() == b"a"


STEPS = st.lists(
    st.one_of(
        st.none(),
        st.builds(
            lambda size, fill: bytes([fill]) * size,
            st.one_of(st.integers(0, MAX_FRAME_BYTES), st.sampled_from([0, 63, 64, 65])),
            st.integers(0, 255),
        ),
    ),
    max_size=60,
)


@given(STEPS)
def test_frames_come_out_as_they_went_in(steps: list[bytes | None]) -> None:
    ends, twin = Ends(), deque[bytes]()
    for content in steps:
        if content is None:
            assert ends.read() == (twin.popleft() if twin else None)
        elif ends.write(content):
            twin.append(content)
        else:
            assert twin, "an empty ring takes every frame"
        ends.writer.check_invariants()
        assert ends.reader.has_frame == bool(twin)
    while twin:
        assert ends.read() == twin.popleft()
    assert ends.read() is None


@given(st.lists(st.integers(0, MAX_FRAME_BYTES), max_size=20), st.integers(1, 300))
def test_a_frame_is_refused_only_where_it_does_not_fit(sizes: list[int], seed: int) -> None:
    ends, held = Ends(), 0
    for size in sizes:
        if ends.write(bytes(size)):
            held += span_bytes(size)
        else:
            # What is skipped at the end is at most one frame less 64 bytes.
            assert held + 2 * span_bytes(size) - 64 > ring_bytes(MAX_FRAME_BYTES)
            break
    assert held <= ring_bytes(MAX_FRAME_BYTES)


def test_two_of_the_largest_frames_have_room_wherever_the_first_begins_at_the_start() -> None:
    ends = Ends()
    largest = bytes(MAX_FRAME_BYTES)
    assert [ends.write(largest) for _ in range(3)] == [True, True, False]
    assert ends.read() == largest
    assert ends.write(largest)


def test_a_reservation_that_is_not_committed_is_not_seen() -> None:
    ends = Ends()
    room = ends.writer.reserve(5)
    assert room is not None
    room[:] = b"never"
    assert (ends.read(), ends.reader.has_frame) == (None, False)
    assert ends.write(b"seen")
    assert ends.read() == b"seen"


def test_each_end_is_told_whether_the_other_waits() -> None:
    ends = Ends()
    for is_awaited in (False, True):
        ends.reader_waits.store(is_awaited)
        assert ends.writer.reserve(1) is not None
        assert ends.writer.commit() is is_awaited
        ends.writer_waits.store(not is_awaited)
        assert ends.reader.frame() is not None
        assert ends.reader.release() is not is_awaited


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 200, 2**32, SKIP - 1, SKIP])
def test_a_length_that_leaves_the_ring_is_refused(length: int) -> None:
    ends = Ends()
    assert ends.write(bytes(10))
    ends.memory[4096:4104].view(np.uint64)[0] = length
    with pytest.raises(BadFrameError):
        ends.reader.frame()


@given(tail=st.integers(0, 2**64 - 1), words=st.lists(st.integers(0, 2**64 - 1), max_size=64))
def test_no_memory_of_a_broken_writer_leads_out_of_the_ring(
    tail: int, words: list[int]
) -> None:
    ends = Ends()
    frames = ends.memory[4096:].view(np.uint64)
    frames[: len(words)] = np.array(words, np.uint64)
    SharedWord(ends.memory, TAIL).store(tail)
    for _ in range(10):
        try:
            frame = ends.reader.frame()
        except BadFrameError:
            break
        if frame is None:
            break
        assert len(frame) <= ring_bytes(MAX_FRAME_BYTES)
        ends.reader.release()

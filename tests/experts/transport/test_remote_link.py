"""A link between nodes without a network: what its messages do, and what they may not."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.transport.errors import LinkTimeoutError, PeerLostError
from experts.transport.remote_link import PREFIX, Kind, RemoteLink, message

MAX_FRAME_BYTES = 64


class Wire:
    """The messages to one end; they come when that end collects them."""

    fds: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.on_its_way: deque[memoryview] = deque()
        self.other: Wire | None = None
        self.link: RemoteLink | None = None

    def send(self, data: memoryview) -> None:
        if self.other is None:
            raise PeerLostError("cannot be reached")
        self.other.on_its_way.append(memoryview(bytes(data)))

    def collect(self) -> None:
        assert self.link is not None
        while self.on_its_way:
            self.link.arrive(self.on_its_way.popleft())


def ends() -> tuple[RemoteLink, RemoteLink]:
    wires = Wire(), Wire()
    wires[0].other, wires[1].other = wires[1], wires[0]
    for wire, peer in zip(wires, ("b", "a"), strict=True):
        wire.link = RemoteLink(peer, MAX_FRAME_BYTES, wire, lambda _: None)
    first, second = wires[0].link, wires[1].link
    assert first is not None
    assert second is not None
    return first, second


def alone() -> RemoteLink:
    wire = Wire()
    wire.link = RemoteLink("b", MAX_FRAME_BYTES, wire, lambda _: None)
    return wire.link


def sent(link: RemoteLink, content: bytes) -> bool:
    """Whether there was room."""
    try:
        link.reserve(len(content), timeout_s=0.0)[:] = content
    except LinkTimeoutError:
        return False
    link.commit()
    return True


def read(link: RemoteLink) -> bytes | None:
    frame = link.receive()
    if frame is None:
        return None
    content = bytes(frame)
    link.release()
    return content


STEPS = st.lists(
    st.tuples(st.booleans(), st.one_of(st.none(), st.binary(max_size=MAX_FRAME_BYTES))),
    max_size=60,
)


@given(STEPS)
def test_frames_come_out_as_they_went_in_both_ways(
    steps: list[tuple[bool, bytes | None]],
) -> None:
    links = ends()
    twins: tuple[deque[bytes], deque[bytes]] = deque(), deque()
    for is_second, content in steps:
        link, sent_to, read_from = links[is_second], twins[is_second], twins[not is_second]
        if content is None:
            assert read(link) == (read_from.popleft() if read_from else None)
        elif sent(link, content):
            sent_to.append(content)
        else:
            assert sent_to, "an empty link takes every frame"
        link.check_invariants()
    for link, waiting in zip(links, reversed(twins), strict=True):
        assert [read(link) for _ in waiting] == list(waiting)
        assert read(link) is None


def test_who_only_reads_tells_that_there_is_room() -> None:
    writer, reader = ends()
    for number in range(100):
        assert sent(writer, bytes([number]) * MAX_FRAME_BYTES)
        assert read(reader) == bytes([number]) * MAX_FRAME_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\3",
        PREFIX.pack(0, 0),
        PREFIX.pack(77, 0),
        PREFIX.pack(Kind.HELLO, 0),
        PREFIX.pack(Kind.CREDIT, 1),
        PREFIX.pack(Kind.FRAME, 2**64 - 1),
        bytes(message(Kind.FRAME, bytes(MAX_FRAME_BYTES + 1))),
    ],
)
def test_a_message_that_makes_no_sense_loses_the_link(data: bytes) -> None:
    link = alone()
    link.arrive(memoryview(data))
    assert (link.is_lost, link.is_ready) == (True, True)
    with pytest.raises(PeerLostError, match="makes no sense"):
        link.receive()


def test_a_peer_that_sends_more_than_there_is_room_for_is_lost() -> None:
    link = alone()
    frame = message(Kind.FRAME, bytes(MAX_FRAME_BYTES))
    for _ in range(3):
        link.arrive(frame)
    assert [read(link) for _ in range(2)] == [bytes(MAX_FRAME_BYTES)] * 2
    with pytest.raises(PeerLostError, match="on their way"):
        link.receive()


def test_frames_before_a_goodbye_are_read() -> None:
    link = alone()
    link.arrive(message(Kind.FRAME, b"last words"))
    link.arrive(message(Kind.GOODBYE))
    assert read(link) == b"last words"
    with pytest.raises(PeerLostError, match="it closed the link"):
        link.receive()


def test_a_frame_can_be_released_where_the_peer_cannot_be_told() -> None:
    link = alone()
    link.arrive(message(Kind.FRAME, bytes(MAX_FRAME_BYTES)))
    assert read(link) == bytes(MAX_FRAME_BYTES)
    with pytest.raises(PeerLostError, match="cannot be reached"):
        link.receive()


def test_a_frame_that_cannot_be_sent_loses_the_link() -> None:
    link = alone()
    link.reserve(1, timeout_s=0.0)
    with pytest.raises(PeerLostError, match="b is gone: cannot be reached"):
        link.commit()
    assert link.is_lost

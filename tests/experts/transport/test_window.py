"""The window of a link between nodes: two ends that tell each other what they released."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.transport.errors import BadFrameError
from experts.transport.window import Window

SIZE = 8


def test_a_full_window_has_room_again_once_the_peer_has_told() -> None:
    ours, theirs = Window(SIZE), Window(SIZE)
    for _ in range(2):
        assert ours.has_room(4)
        ours.send(4)
        theirs.receive(4)
    assert not ours.has_room(1)
    theirs.release(4)
    assert theirs.must_tell
    ours.peer_has_released(theirs.tell())
    assert (ours.has_room(4), theirs.must_tell) == (True, False)


def test_a_peer_that_counts_wrongly_is_found_out() -> None:
    ours = Window(SIZE)
    ours.send(4)
    with pytest.raises(BadFrameError):
        ours.peer_has_released(5)
    ours.peer_has_released(4)
    with pytest.raises(BadFrameError):
        ours.peer_has_released(3)


def test_a_peer_that_sends_more_than_it_may_is_found_out() -> None:
    ours = Window(SIZE)
    ours.receive(4)
    ours.receive(4)
    with pytest.raises(BadFrameError):
        ours.receive(1)
    ours.check_invariants()


@given(
    st.lists(st.sampled_from(["send 1", "send 3", "send 4", "take", "release"]), max_size=80)
)
def test_who_reads_everything_leaves_room_for_any_frame(steps: list[str]) -> None:
    writer, reader = Window(SIZE), Window(SIZE)
    wire: deque[int] = deque()
    held: deque[int] = deque()

    def release() -> None:
        reader.release(held.popleft())
        if reader.must_tell:
            writer.peer_has_released(reader.tell())

    def take() -> None:
        held.append(wire.popleft())
        reader.receive(held[-1])

    for step in steps:
        if step.startswith("send"):
            span = int(step[-1])
            if writer.has_room(span):
                writer.send(span)
                wire.append(span)
        elif step == "take" and wire:
            take()
        elif step == "release" and held:
            release()
        writer.check_invariants()
        reader.check_invariants()
        assert sum(wire) + sum(held) <= SIZE
    while wire:
        take()
    while held:
        release()
    assert writer.has_room(SIZE // 2)

"""A link that fails is closed once, and nothing more is sent to it."""

from collections.abc import Callable

import pytest

from experts.host.link_keeper import LinkKeeper
from experts.transport.link import Link
from tests.experts.host.fake_links import FakeLink


def keeper() -> tuple[LinkKeeper, list[Link]]:
    gone: list[Link] = []
    return LinkKeeper(gone.append), gone


def test_a_frame_is_sent_whole() -> None:
    own, gone = keeper()
    link = FakeLink()
    own.send(link, b"abc")
    assert ([bytes(frame) for frame in link.sent()], gone) == ([b"abc"], [])


def test_one_without_room_is_gone() -> None:
    own, gone = keeper()
    link = FakeLink(has_room=False)
    assert own.room(link, 8) is None
    assert link.is_closed
    assert own.is_gone(link)
    assert gone == [link]
    own.check_invariants([])


@pytest.mark.parametrize(
    "use",
    [
        lambda own, link: own.send(link, b"abc"),
        lambda own, link: own.frame_of(link),
        lambda own, link: own.commit(link),
    ],
)
def test_one_that_is_lost_is_closed_once(use: Callable[[LinkKeeper, Link], None]) -> None:
    own, gone = keeper()
    link = FakeLink()
    link.is_lost = True
    for _ in range(2):
        if not own.is_gone(link):
            use(own, link)
    own.drop(link, "twice")
    assert (link.is_closed, gone) == (True, [link])
    own.send(link, b"abc")
    assert own.frame_of(link) is None
    own.end_turn()
    assert not own.is_gone(link)


def test_frames_that_came_before_the_peer_was_lost_are_read() -> None:
    own, gone = keeper()
    link = FakeLink()
    link.to_give, link.is_lost = [b"last words"], True
    frame = own.frame_of(link)
    assert frame is not None
    assert bytes(frame) == b"last words"
    assert gone == []

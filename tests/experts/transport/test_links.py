"""What every link does, whichever way it goes: the other end is a process of its own."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.transport.errors import FrameTooLargeError, LinkTimeoutError, PeerLostError
from experts.transport.hub import Hub
from experts.transport.link import Link
from tests.experts.transport import peer_process as peers
from tests.experts.transport.peer_process import (
    LIMIT_S,
    MAX_FRAME_BYTES,
    SETTINGS,
    PeerProcess,
    playing,
)


@contextmanager
def dialed(part: peers.Part, address: str) -> Iterator[tuple[PeerProcess, Hub, Link]]:
    """A part that listens, and a link to it."""
    with playing(part, address) as peer, peers.hub("engine") as hub:
        yield peer, hub, hub.dial(peer.told())
        hub.check_invariants()


def send(link: Link, content: bytes, timeout_s: float = LIMIT_S) -> None:
    link.reserve(len(content), timeout_s)[:] = content
    link.commit()


def answer(hub: Hub, link: Link) -> bytes:
    while (frame := link.receive()) is None:
        assert hub.wait(LIMIT_S), "no answer"
    content = bytes(frame)
    link.release()
    return content


def lost(hub: Hub, link: Link) -> str:
    """Why the link is lost, which a wait must find out."""
    assert hub.wait(LIMIT_S) == [link]
    with pytest.raises(PeerLostError) as caught:
        link.receive()
    return str(caught.value)


SIZES = st.one_of(st.integers(0, 200), st.sampled_from([4095, 4096, MAX_FRAME_BYTES]))
CONTENTS = st.builds(
    lambda size, seed: np.random.default_rng(seed).bytes(size), SIZES, st.integers(0, 9)
)


def test_frames_come_back_as_they_were_sent(address: str) -> None:
    with dialed(peers.echo, address) as (_, hub, link):

        @settings(max_examples=60)
        @given(st.lists(CONTENTS, max_size=2))
        def come_back(contents: list[bytes]) -> None:
            for content in contents:
                send(link, content)
            assert [answer(hub, link) for _ in contents] == contents
            hub.check_invariants()

        come_back()


def test_each_of_many_frames_wakes_who_sleeps(address: str) -> None:
    with dialed(peers.echo, address) as (_, hub, link):
        for number in range(1000):
            content = number.to_bytes(2, "little")
            send(link, content)
            assert answer(hub, link) == content


def test_a_frame_is_written_and_read_in_place(address: str) -> None:
    with dialed(peers.echo, address) as (_, hub, link):
        for size in (64, 1000, MAX_FRAME_BYTES):
            room = link.reserve(size, LIMIT_S)
            assert (room.readonly, len(room), room.format) == (False, size, "B")
            assert np.frombuffer(room, np.uint8).ctypes.data % 64 == 0
            np.frombuffer(room, np.uint64, size // 8)[:] = 7
            link.commit()
            assert hub.wait(LIMIT_S) == [link]
            frame = link.receive()
            assert frame is not None
            assert (frame.readonly, len(frame)) == (True, size)
            assert np.frombuffer(frame, np.uint8).ctypes.data % 64 == 0
            assert (np.frombuffer(frame, np.uint64, size // 8) == 7).all()
            assert link.receive() == frame
            link.release()


def test_a_second_reservation_takes_the_place_of_the_first(address: str) -> None:
    with dialed(peers.echo, address) as (_, hub, link):
        link.reserve(50, LIMIT_S)[:] = b"x" * 50
        send(link, b"only this")
        assert answer(hub, link) == b"only this"
        assert hub.wait(0.0) == []


def test_a_frame_that_is_too_large_is_refused_and_the_link_goes_on(address: str) -> None:
    with dialed(peers.echo, address) as (_, hub, link):
        with pytest.raises(FrameTooLargeError, match=f"at most {MAX_FRAME_BYTES}"):
            link.reserve(MAX_FRAME_BYTES + 1, LIMIT_S)
        send(link, b"small")
        assert answer(hub, link) == b"small"


def test_a_full_link_makes_the_writer_wait_no_longer_than_it_says(address: str) -> None:
    with dialed(peers.deaf, address) as (peer, _, link):
        send(link, bytes(MAX_FRAME_BYTES))
        send(link, bytes(MAX_FRAME_BYTES))
        with pytest.raises(LinkTimeoutError, match="made no room"):
            send(link, b"one more", timeout_s=0.05)
        peer.tell(2)
        send(link, b"one more")
        assert peer.told() == [MAX_FRAME_BYTES] * 2
        peer.tell(1)
        assert peer.told() == [8]


def test_a_writer_that_waits_goes_on_as_soon_as_there_is_room(address: str) -> None:
    with dialed(peers.drain, address) as (peer, _, link):
        sizes = (MAX_FRAME_BYTES, 1, 30_000, 40_000, MAX_FRAME_BYTES - 1)
        for number in range(200):
            send(link, bytes([number]) * sizes[number % len(sizes)])
        send(link, b"")
        assert peer.told() == list(range(200))


def test_one_wait_is_for_all_links_of_a_hub(socket_folder: Path) -> None:
    with ExitStack() as stack:
        hub = stack.enter_context(peers.hub("engine"))
        links = []
        for where in (
            f"unix://{socket_folder}/a",
            f"unix://{socket_folder}/b",
            "tcp://127.0.0.1:0",
        ):
            host = stack.enter_context(playing(peers.echo, where))
            dialed_at = host.told()
            links += [hub.dial(dialed_at) for _ in range(3)]
        for number, link in enumerate(links):
            send(link, bytes([number]))
        found: dict[Link, bytes] = {}
        while len(found) < len(links):
            ready = hub.wait(LIMIT_S)
            assert ready
            found |= {link: answer(hub, link) for link in ready}
        assert [found[link] for link in links] == [bytes([n]) for n in range(len(links))]
        assert set(hub.links) == set(links)


def test_a_host_serves_many_engines(address: str) -> None:
    with ExitStack() as stack:
        host = stack.enter_context(peers.hub("host"))
        where = host.listen(address)
        engines = [stack.enter_context(playing(peers.dial_and_ask, where)) for _ in range(4)]
        num_echoed = 0
        while num_echoed < 4 * 100:
            ready = host.wait(LIMIT_S)
            assert ready
            for link in ready:
                peers.echo_frame(link)
            num_echoed += len(ready)
        host.check_invariants()
        assert [engine.told() for engine in engines] == ["done"] * 4
        assert [link.peer for link in host.links] == ["dial_and_ask"] * 4


def test_a_host_that_is_killed_is_noticed_and_other_links_go_on(address: str) -> None:
    with (
        playing(peers.die, address) as peer,
        playing(peers.echo, "tcp://127.0.0.1:0") as other,
        peers.hub("engine") as hub,
    ):
        link, other_link = hub.dial(peer.told()), hub.dial(other.told())
        send(link, b"hello")
        assert answer(hub, link) == b"hello"
        peer.tell("die")
        started = time.monotonic()
        assert "die is gone" in lost(hub, link)
        assert time.monotonic() - started < SETTINGS.silence_s / 2
        with pytest.raises(PeerLostError):
            link.reserve(1, LIMIT_S)
        link.close()
        link.close()
        assert hub.links == (other_link,)
        send(other_link, b"as before")
        assert answer(hub, other_link) == b"as before"


def test_an_engine_that_is_killed_is_noticed(address: str) -> None:
    with peers.hub("host") as host:
        where = host.listen(address)
        with playing(peers.dial_and_die, where) as engine:
            (link,) = host.wait(LIMIT_S)
            assert answer(host, link) == b"abc"
            engine.tell("die")
            assert "dial_and_die is gone" in lost(host, link)
            link.close()
            assert host.links == ()
            host.check_invariants()


def test_a_writer_that_waits_for_room_notices_that_the_peer_is_killed(address: str) -> None:
    with dialed(peers.deaf, address) as (peer, _, link):
        send(link, bytes(MAX_FRAME_BYTES))
        send(link, bytes(MAX_FRAME_BYTES))
        killer = threading.Timer(0.1, peer.signal, (signal.SIGKILL,))
        killer.start()
        with pytest.raises(PeerLostError, match="deaf is gone"):
            send(link, b"one more")
        killer.join()


def test_the_last_frame_of_a_process_that_was_killed_is_read(socket_folder: Path) -> None:
    with dialed(peers.die_at_once, f"unix://{socket_folder}/host") as (peer, hub, link):
        send(link, b"last words")
        peer.join()
        assert answer(hub, link) == b"last words"
        assert "die_at_once is gone" in lost(hub, link)


def test_a_process_that_left_a_child_behind_is_lost_all_the_same(socket_folder: Path) -> None:
    with dialed(peers.die_with_a_child, f"unix://{socket_folder}/host") as (peer, hub, link):
        send(link, b"now")
        try:
            assert "is gone" in lost(hub, link)
        finally:
            os.kill(peer.told(), signal.SIGKILL)


def test_a_peer_that_is_stopped_makes_no_room_and_goes_on_later(address: str) -> None:
    with dialed(peers.echo, address) as (peer, hub, link):
        peer.signal(signal.SIGSTOP)
        try:
            send(link, bytes(MAX_FRAME_BYTES))
            send(link, bytes(MAX_FRAME_BYTES))
            with pytest.raises(LinkTimeoutError):
                send(link, b"one more", timeout_s=0.05)
            assert hub.wait(0.05) == []
        finally:
            peer.signal(signal.SIGCONT)
        assert [len(answer(hub, link)) for _ in range(2)] == [MAX_FRAME_BYTES] * 2


def test_a_peer_of_another_node_that_is_silent_for_too_long_is_lost() -> None:
    impatient = replace(SETTINGS, silence_s=0.4)
    with (
        playing(peers.echo, "tcp://127.0.0.1:0") as peer,
        peers.hub("engine", impatient) as hub,
    ):
        link = hub.dial(peer.told())
        peer.signal(signal.SIGSTOP)
        started = time.monotonic()
        assert "silent for too long" in lost(hub, link)
        assert time.monotonic() - started < LIMIT_S / 2


def test_a_link_that_is_closed_is_lost_to_the_other_end(address: str) -> None:
    with playing(peers.report_the_lost, address) as peer, peers.hub("engine") as hub:
        where = peer.told()
        closed, link = hub.dial(where), hub.dial(where)
        closed.close()
        assert "engine is gone" in peer.told()
        send(link, b"the other one lives")
        assert answer(hub, link) == b"the other one lives"
        assert hub.links == (link,)


def test_a_host_can_close_a_link(address: str) -> None:
    with dialed(peers.close_at_once, address) as (_, hub, link):
        send(link, b"hello")
        assert "close_at_once is gone" in lost(hub, link)


def test_a_wait_ends_when_its_time_is_over_and_takes_no_processor(address: str) -> None:
    with dialed(peers.echo, address) as (_, hub, _):
        started, used = time.monotonic(), time.process_time()
        assert hub.wait(0.2) == []
        assert time.monotonic() - started >= 0.2
        assert time.process_time() - used < 0.1


def test_another_thread_can_end_a_wait(address: str) -> None:
    with peers.hub("host") as host:
        host.listen(address)
        waker = threading.Timer(0.05, host.wake)
        waker.start()
        started = time.monotonic()
        assert host.wait(LIMIT_S) == []
        assert time.monotonic() - started < LIMIT_S / 2
        waker.join()
        host.wake()
        assert host.wait(LIMIT_S) == []


def test_an_engine_gets_in_while_others_keep_the_host_busy(address: str) -> None:
    with peers.hub("host") as host:
        where = host.listen(address)
        with playing(peers.dial_and_die, where), playing(peers.dial_and_die, where):
            (busy,) = host.wait(LIMIT_S)[:1]
            deadline = time.monotonic() + LIMIT_S
            while len(host.links) < 2:
                assert busy in host.wait(LIMIT_S)
                assert time.monotonic() < deadline


def test_a_wait_that_looks_on_before_it_sleeps_finds_frames_too(address: str) -> None:
    watchful = replace(SETTINGS, spin_s=0.002)
    with playing(peers.echo, address) as peer, peers.hub("engine", watchful) as hub:
        link = hub.dial(peer.told())
        for number in range(50):
            send(link, bytes([number]))
            assert answer(hub, link) == bytes([number])
        assert hub.wait(0.001) == []
        assert hub.wait(0.01) == []

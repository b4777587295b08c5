"""Hosts and engines that run in a process of their own, to be killed and stopped there.

A *part* is what such a process plays. It gets the pipe to the test, its hub and the address,
and tells the test by the pipe what it knows. The processes are forked from a server that
has imported everything, so each takes a few milliseconds to start.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from experts.transport.errors import PeerLostError
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link, LinkHub, LinkSettings

MODEL = "sha256:3f1c"
SECRET = "the cluster's secret, of all its processes"
MAX_FRAME_BYTES = 64 * 1024
LIMIT_S = 20.0
"""For what takes milliseconds, on a machine with other things to do."""

SETTINGS = LinkSettings(max_frame_bytes=MAX_FRAME_BYTES, set_up_timeout_s=LIMIT_S)

Part = Callable[[Any, LinkHub, str], None]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def start_server() -> None:
    """It stays, with some descriptors of this process, until this process ends."""
    forkserver.ensure_running()


def hub(name: str, settings: LinkSettings = SETTINGS, secret: str | None = SECRET) -> Hub:
    return Hub(Identity(name, MODEL), settings, secret)


class PeerProcess:
    """A running part."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def told(self) -> Any:
        """The next thing that the part has said."""
        assert self._pipe.poll(LIMIT_S), "the part says nothing"
        return self._pipe.recv()

    def tell(self, what: object) -> None:
        self._pipe.send(what)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def join(self) -> None:
        self._process.join(LIMIT_S)
        assert self._process.exitcode is not None

    def end(self) -> None:
        self._process.kill()
        self.join()
        self._process.close()
        self._pipe.close()


@contextlib.contextmanager
def playing(
    part: Part, address: str, settings: LinkSettings = SETTINGS
) -> Iterator[PeerProcess]:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_play, args=(part, theirs, address, settings))
    process.start()
    theirs.close()
    peer = PeerProcess(process, ours)
    try:
        yield peer
    finally:
        peer.end()


def _play(part: Part, pipe: Any, address: str, settings: LinkSettings) -> None:
    with hub(part.__name__, settings) as own:
        part(pipe, own, address)


def echo(pipe: Any, own: LinkHub, address: str) -> None:
    """Sends each frame back."""
    pipe.send(own.listen(address))
    while True:
        for link in own.wait(LIMIT_S):
            echo_frame(link)


def deaf(pipe: Any, own: LinkHub, address: str) -> None:
    """Reads nothing until it is told how many frames to read; says how long they were."""
    pipe.send(own.listen(address))
    link = _first_frames(own)
    while True:
        sizes = []
        for _ in range(pipe.recv()):
            frame = _next_frame(own, link)
            sizes.append(len(frame))
            link.release()
        pipe.send(sizes)


def drain(pipe: Any, own: LinkHub, address: str) -> None:
    """Reads everything, and says the frames' first bytes when one is empty."""
    pipe.send(own.listen(address))
    link = _first_frames(own)
    firsts = []
    while frame := _next_frame(own, link):
        firsts.append(frame[0])
        link.release()
    pipe.send(firsts)
    pipe.recv()


def report_the_lost(pipe: Any, own: LinkHub, address: str) -> None:
    """Sends each frame back, and says why a link is lost."""
    pipe.send(own.listen(address))
    while True:
        for link in own.wait(LIMIT_S):
            try:
                link.receive()
            except PeerLostError as error:
                pipe.send(str(error))
            echo_frame(link)


def close_at_once(pipe: Any, own: LinkHub, address: str) -> None:
    """Closes the link at its first frame, and goes on waiting."""
    pipe.send(own.listen(address))
    _first_frames(own).close()
    assert own.links == ()
    own.wait(LIMIT_S)


def die(pipe: Any, own: LinkHub, address: str) -> None:
    """Answers its first frame, and is killed when it is told."""
    pipe.send(own.listen(address))
    echo_frame(_first_frames(own))
    assert pipe.recv() == "die"
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_once(pipe: Any, own: LinkHub, address: str) -> None:
    """Is killed as soon as it has answered its first frame."""
    pipe.send(own.listen(address))
    echo_frame(_first_frames(own))
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_a_child(pipe: Any, own: LinkHub, address: str) -> None:
    """Is killed at its first frame, and leaves a process that has all its descriptors."""
    pipe.send(own.listen(address))
    _first_frames(own)
    child = os.fork()
    if child == 0:
        signal.pause()
    pipe.send(child)
    os.kill(os.getpid(), signal.SIGKILL)


def dial_and_die(pipe: Any, own: LinkHub, address: str) -> None:
    """An engine that sends a frame and is then killed."""
    link = own.dial(address)
    link.reserve(3, LIMIT_S)[:] = b"abc"
    link.commit()
    assert pipe.recv() == "die"
    os.kill(os.getpid(), signal.SIGKILL)


def dial_and_ask(pipe: Any, own: LinkHub, address: str) -> None:
    """An engine that sends 100 frames, waits for each answer, and says that they are right."""
    link = own.dial(address)
    for number in range(100):
        sent = bytes([number]) * (number + 1)
        link.reserve(len(sent), LIMIT_S)[:] = sent
        link.commit()
        assert _next_frame(own, link) == sent
        link.release()
    pipe.send("done")
    pipe.recv()


def echo_frame(link: Link) -> None:
    try:
        frame = link.receive()
    except PeerLostError:
        link.close()
        return
    assert frame is not None
    link.reserve(len(frame), LIMIT_S)[:] = frame
    link.commit()
    link.release()


def _first_frames(own: LinkHub) -> Link:
    (link,) = own.wait(LIMIT_S)
    return link


def _next_frame(own: LinkHub, link: Link) -> memoryview:
    while (frame := link.receive()) is None:
        assert own.wait(LIMIT_S)
    return frame

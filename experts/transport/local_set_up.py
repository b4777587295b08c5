"""How two processes of one node come to share memory: one packet each way over a Unix
socket, with the descriptors that the other end needs.

| packet    | descriptors                                                     |
|-----------|-----------------------------------------------------------------|
| `Hello`   | the bell of who dials, and its page                             |
| `Welcome` | the bell of who listens, its page, the memory of the two rings  |
| `Refusal` | none                                                            |

In that memory the first ring is written by who dials.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.transport import hello, shared_memory
from experts.transport.bell import Bell, PeerBell
from experts.transport.errors import RefusedError
from experts.transport.link import Identity
from experts.transport.local_link import LocalPeer
from experts.transport.ring import RingReader, RingWriter, memory_bytes

_CREDENTIALS = struct.Struct("3i")
_MAX_FDS = 3

Rings = tuple[RingReader, RingWriter]


@dataclass(frozen=True)
class LocalParts:
    """What a link on one node is made of."""

    peer: LocalPeer
    rings: Rings
    max_frame_bytes: int


def dial(
    connection: socket.socket, identity: Identity, max_frame_bytes: int, bell: Bell
) -> LocalParts:
    """Say Hello and wait for the answer. The connection has a timeout, and is then ours.

    Raises RefusedError, and OSError where the connection breaks.
    """
    pid = checked_pid(connection)
    said = hello.encode(hello.hello_of(identity, max_frame_bytes))
    socket.send_fds(connection, [said], [bell.fd, bell.page_fd])
    with _received(connection) as (data, fds):
        answer = hello.read_answer(data)
        if len(fds) != _MAX_FDS:
            raise RefusedError("the other end sent no memory")
        memory = shared_memory.attach(fds[2], 2 * memory_bytes(max_frame_bytes), True)
        peer_bell = PeerBell(fds[0], fds[1])
    peer = LocalPeer(answer.name, connection, _process_fd(pid), peer_bell)
    return LocalParts(peer, _rings(memory, peer_bell, is_dialler=True), max_frame_bytes)


def answer(
    connection: socket.socket, identity: Identity, max_frame_bytes: int, bell: Bell
) -> LocalParts:
    """Read a Hello that has come and answer it. The connection is then ours.

    Raises RefusedError, which the other end has been told, BlockingIOError where no Hello
    has come, and OSError where the connection breaks.
    """
    pid = checked_pid(connection)
    with _received(connection) as (data, fds):
        said = hello.read_hello(data)
        refusal = hello.refusal_of(said, identity, max_frame_bytes)
        if refusal is not None:
            connection.send(hello.encode(refusal))
            raise RefusedError(refusal.reason)
        if len(fds) != _MAX_FDS - 1:
            raise RefusedError("the other end sent no bell")
        peer_bell = PeerBell(fds[0], fds[1])
    memory_fd, memory = shared_memory.make(2 * memory_bytes(said.max_frame_bytes))
    try:
        fds = [bell.fd, bell.page_fd, memory_fd]
        socket.send_fds(connection, [hello.encode(hello.Welcome(identity.name))], fds)
    except OSError:
        peer_bell.close()
        raise
    finally:
        os.close(memory_fd)
    peer = LocalPeer(said.name, connection, _process_fd(pid), peer_bell)
    rings = _rings(memory, peer_bell, is_dialler=False)
    return LocalParts(peer, rings, said.max_frame_bytes)


def _rings(memory: NDArray[np.uint8], peer: PeerBell, is_dialler: bool) -> Rings:
    first, second = np.split(memory, 2)
    reads, writes = (second, first) if is_dialler else (first, second)
    return RingReader(reads, peer.awaits_room), RingWriter(writes, peer.awaits_frames)


def checked_pid(connection: socket.socket) -> int:
    """The peer's process. Raises RefusedError for a process of another user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    if uid != os.geteuid():
        raise RefusedError(f"the other end belongs to user {uid}, not to {os.geteuid()}")
    return int(pid)


def _process_fd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


@contextlib.contextmanager
def _received(connection: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """One packet, and its descriptors for as long as the block runs."""
    flags = socket.MSG_CMSG_CLOEXEC
    data, fds, _, _ = socket.recv_fds(connection, hello.MAX_HELLO_BYTES, _MAX_FDS, flags)
    try:
        if not data:
            raise ConnectionResetError("the other end hung up")
        yield data, fds
    finally:
        for fd in fds:
            os.close(fd)

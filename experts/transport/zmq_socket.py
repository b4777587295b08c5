"""What our sockets of ZeroMQ have alike."""

from typing import NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from experts.transport.link import span_bytes
from experts.transport.ring import ring_bytes

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

_MAX_ADDED_BYTES = 8192
"""Beside a frame: the prefix, what encryption adds, and whatever the set-up needs."""
_LINGER_MS = 500


class SocketEvent(NamedTuple):
    """What a socket's monitor has seen."""

    kind: int
    value: int
    """For a connection that begins or ends, its descriptor."""


def limit(socket: Socket, max_frame_bytes: int, silence_s: float) -> None:
    """Before it is bound or connected: bound what it keeps, and what it waits for."""
    # The window is what bounds a link; this is the bound of who does not keep to it.
    max_messages = ring_bytes(max_frame_bytes) // span_bytes(0) + 64
    silence_ms = max(1, int(silence_s * 500))
    socket.setsockopt(zmq.SNDHWM, max_messages)
    socket.setsockopt(zmq.RCVHWM, max_messages)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes + _MAX_ADDED_BYTES)
    # A probe after half of the silence, and the other half for its answer.
    socket.setsockopt(zmq.HEARTBEAT_IVL, silence_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, silence_ms)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)


def fd_of(socket: Socket) -> int:
    """Can be read from when there is something to look at, once `has_message` was asked."""
    return _int_option(socket, zmq.FD)


def has_message(socket: Socket) -> bool:
    """Whether one can be received at once."""
    return bool(_int_option(socket, zmq.EVENTS) & zmq.POLLIN)


def next_event(monitor: Socket) -> SocketEvent | None:
    """The oldest that was not taken yet. Never waits."""
    if not has_message(monitor):
        return None
    found = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
    return SocketEvent(int(found["event"]), int(found["value"]))


def _int_option(socket: Socket, option: int) -> int:
    value = socket.getsockopt(option)
    assert isinstance(value, int)
    return value

"""One TCP connection between two processes of a cluster: byte strings both ways.

On the wire each is a length (4 bytes, big-endian) and its bytes. Before the
first, both ends prove that they hold the cluster's token, without sending it:
each sends a nonce, and answers the other's with
`HMAC-SHA256(token, role + its own nonce + the other's)`.

Everything happens in callbacks of the event loop: no task, no thread and no
queue lies between `send` and the socket, nor between the socket and `received`.
"""

import asyncio
import errno
import hashlib
import hmac
import logging
import secrets
import socket
from typing import Literal, Protocol, cast

log = logging.getLogger(__name__)

Role = Literal["gateway", "engine"]

_LENGTH_BYTES = 4
_NONCE_BYTES = _PROOF_BYTES = 32
_HANDSHAKE_TIMEOUT_S = 5.0
_MAX_MESSAGE_BYTES = 1 << 30
# A peer whose machine is gone sends no reset. After this long without an
# answer the kernel ends the connection.
_SILENCE_S = 15
_PROBE_S = 5
_ERRNOS_OF_SILENCE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})
"""Errors of connections whose other end nobody has closed."""


class Handler(Protocol):
    """Who owns a connection; called in the event loop, must not wait."""

    def opened(self) -> None:
        """Both ends have proven themselves; `send` may be called."""
        ...

    def received(self, data: bytes) -> None:
        """One message. A ValueError counts as nonsense and ends the connection."""
        ...

    def ended(self) -> None:
        """The connection is gone, whether it was ever opened or not. Called once."""
        ...


class PeerConnection(asyncio.Protocol):
    """One end; hand it to `loop.create_connection` or `loop.create_server`."""

    def __init__(self, token: str, role: Role, handler: Handler) -> None:
        self._token = token.encode()
        self._role: Role = role
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._peer_nonce: bytes | None = None
        self._is_open = False
        self._timer: asyncio.TimerHandle | None = None
        self.was_silent = False
        """It has ended since nothing came from the other end, not even from its kernel."""

    def send(self, data: bytes) -> None:
        """Send one message; never waits. Does nothing once the connection ends."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)

    def close(self) -> None:
        """End the connection when what was sent has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now, whatever has not left."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        _watch_for_silence(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_HANDSHAKE_TIMEOUT_S, self._give_up, "no handshake")
        self.send(self._nonce)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        assert self._timer is not None
        self._timer.cancel()
        self._is_open = False
        self.was_silent = isinstance(exc, OSError) and exc.errno in _ERRNOS_OF_SILENCE
        self._handler.ended()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        start, length = 0, self._next_length(0)
        while length is not None:
            start += _LENGTH_BYTES
            self._take(bytes(self._buffer[start : start + length]))
            start += length
            length = self._next_length(start)
        del self._buffer[:start]

    def _next_length(self, start: int) -> int | None:
        """Bytes of the message at `start`; None if it is not whole, or nothing may follow."""
        assert self._transport is not None
        body = start + _LENGTH_BYTES
        if self._transport.is_closing() or len(self._buffer) < body:
            return None
        length = int.from_bytes(self._buffer[start:body], "big")
        if length > (_MAX_MESSAGE_BYTES if self._is_open else _PROOF_BYTES):
            self._give_up(f"a message of {length} bytes")
            return None
        return length if len(self._buffer) >= body + length else None

    def _take(self, message: bytes) -> None:
        if self._is_open:
            try:
                self._handler.received(message)
            except ValueError as error:
                self._give_up(f"nonsense: {error}")
        elif self._peer_nonce is None:
            self._peer_nonce = message
            self.send(_proof(self._token, self._role, self._nonce, message))
        else:
            self._open_if_proven(self._peer_nonce, message)

    def _open_if_proven(self, peer_nonce: bytes, proof: bytes) -> None:
        peer_role: Role = "engine" if self._role == "gateway" else "gateway"
        expected = _proof(self._token, peer_role, peer_nonce, self._nonce)
        if not hmac.compare_digest(proof, expected):
            self._give_up("another token")
            return
        assert self._timer is not None
        self._timer.cancel()
        self._is_open = True
        self._handler.opened()

    def _give_up(self, why: str) -> None:
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        log.error("ending the connection with %s: it sent %s", peer, why)
        self._transport.abort()


def _proof(token: bytes, role: Role, own_nonce: bytes, other_nonce: bytes) -> bytes:
    return hmac.digest(token, role.encode() + own_nonce + other_nonce, hashlib.sha256)


def _watch_for_silence(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _SILENCE_S // _PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _SILENCE_S)

"""How a link between nodes is dialled: a socket of its own, and no second try."""

import math
import select
import time
from collections.abc import Callable

import zmq

from experts.transport import hello
from experts.transport.address import TcpAddress
from experts.transport.curve_keys import CurveKeys
from experts.transport.errors import PeerLostError, RefusedError
from experts.transport.link import Identity, LinkSettings
from experts.transport.remote_link import PREFIX, Kind, RemoteLink, message
from experts.transport.zmq_socket import Context, fd_of, has_message, limit, next_event

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_EVENTS = _HANDSHAKE_FAILED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


class RemoteConnection:
    """A connection that was dialled, and its one link."""

    def __init__(
        self,
        context: Context,
        keys: CurveKeys,
        settings: LinkSettings,
        address: TcpAddress,
    ) -> None:
        self._address = address
        self._max_frame_bytes = settings.max_frame_bytes
        self._socket = context.socket(zmq.DEALER)
        self._socket.ipv6 = ":" in address.host
        limit(self._socket, settings.max_frame_bytes, settings.silence_s)
        # A connection made anew would have lost frames, and nobody would know.
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        keys.prove(self._socket)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self._link: RemoteLink | None = None

    @property
    def fds(self) -> tuple[int, ...]:
        """See `Post`."""
        return fd_of(self._socket), fd_of(self._monitor)

    def dial(
        self, identity: Identity, timeout_s: float, on_close: Callable[[], None]
    ) -> RemoteLink:
        """See `LinkHub`; `on_close` when the link is closed."""
        deadline = time.monotonic() + timeout_s
        self._socket.connect(self._address.url)
        said = hello.encode(hello.hello_of(identity, self._max_frame_bytes))
        self.send(message(Kind.HELLO, said))
        name = hello.read_answer(self._answer(deadline)).name
        self._link = RemoteLink(name, self._max_frame_bytes, self, lambda _: on_close())
        return self._link

    @property
    def link(self) -> RemoteLink | None:
        """None until it is there."""
        return self._link

    def send(self, data: memoryview) -> None:
        """See `Post`."""
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise PeerLostError(f"cannot be reached: {error.strerror}") from error

    def collect(self) -> None:
        """See `Post`."""
        assert self._link is not None
        has_ended = next_event(self._monitor) is not None
        while has_message(self._socket):
            self._link.arrive(self._socket.recv(zmq.NOBLOCK, copy=False).buffer)
        if has_ended:
            self._link.lose("the connection broke, or it was silent for too long")

    def close(self) -> None:
        """End the connection. What is on its way has half a second, if there is a link."""
        if self._link is None or self._link.is_lost:
            self._socket.linger = 0
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _answer(self, deadline: float) -> bytes:
        wake = select.poll()
        for fd in self.fds:
            wake.register(fd, select.POLLIN)
        while not has_message(self._socket):
            event = next_event(self._monitor)
            if event is not None:
                raise self._failure(event.kind)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise PeerLostError(f"{self._address.url} did not answer in time")
            wake.poll(math.ceil(left_s * 1000))
        data = self._socket.recv(zmq.NOBLOCK)
        if data[:1] != bytes([Kind.ANSWER]):
            raise RefusedError(f"{self._address.url} did not answer Hello")
        return data[PREFIX.size :]

    def _failure(self, event: int) -> PeerLostError | RefusedError:
        if event & _HANDSHAKE_FAILED:
            return RefusedError(
                f"{self._address.url} did not let us in; give both ends the cluster's secret"
            )
        return PeerLostError(f"nobody answers at {self._address.url}")

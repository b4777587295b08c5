"""Where links between nodes come in: one port for all of them."""

import contextlib
import logging
from collections.abc import Callable

import zmq

from experts.transport import hello
from experts.transport.address import TcpAddress
from experts.transport.curve_keys import CurveKeys
from experts.transport.errors import PeerLostError, RefusedError
from experts.transport.link import Identity, LinkSettings
from experts.transport.remote_link import PREFIX, Kind, RemoteLink, message
from experts.transport.zmq_socket import Context, fd_of, has_message, limit, next_event
from infra.errors import ConfigError

log = logging.getLogger(__name__)

_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED


class RemoteListener:
    """A port, and the links of those who have dialled it.

    The socket knows a peer by a name that it makes up for each connection, the monitor by
    the connection's descriptor; a message has both.
    """

    def __init__(
        self,
        context: Context,
        keys: CurveKeys,
        identity: Identity,
        settings: LinkSettings,
        address: TcpAddress,
    ) -> None:
        """Raises ConfigError where the port cannot be had."""
        self._identity = identity
        self._settings = settings
        self._socket = context.socket(zmq.ROUTER)
        self._socket.ipv6 = ":" in address.host
        self._socket.router_mandatory = True
        limit(self._socket, settings.max_frame_bytes, settings.silence_s)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * settings.set_up_timeout_s))
        keys.guard(self._socket)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        try:
            self._socket.bind(address.url)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot listen at {address.url}: {error.strerror}") from error
        self._connected: set[int] = set()
        self._fd_to_link: dict[int, RemoteLink] = {}
        self._name_to_link: dict[bytes, RemoteLink] = {}

    @property
    def address(self) -> str:
        """As it is dialled."""
        endpoint = self._socket.last_endpoint
        assert isinstance(endpoint, bytes)
        return endpoint.decode().rstrip("\0")

    @property
    def fds(self) -> tuple[int, ...]:
        """See `Post`."""
        return fd_of(self._socket), fd_of(self._monitor)

    @property
    def links(self) -> tuple[RemoteLink, ...]:
        """Those that are not closed."""
        return tuple(self._name_to_link.values())

    def collect(self) -> None:
        """See `Post`."""
        self._watch_connections()
        while has_message(self._socket):
            name, data = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)[:2]
            link = self._name_to_link.get(name.bytes)
            if link is None:
                self._answer(name.bytes, data)
            else:
                link.arrive(data.buffer)

    def send(self, name: bytes, data: memoryview) -> None:
        """To the peer of this name. Raises PeerLostError."""
        try:
            self._socket.send(name, zmq.SNDMORE | zmq.NOBLOCK)
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise PeerLostError(f"cannot be reached: {error.strerror}") from error

    def close(self) -> None:
        """Give the port back. What is on its way has half a second."""
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def check_invariants(self) -> None:
        """Raises AssertionError where the tables contradict each other."""
        assert set(self._fd_to_link) <= self._connected
        assert set(self._fd_to_link.values()) <= set(self._name_to_link.values())
        for link in self._name_to_link.values():
            link.check_invariants()

    def _watch_connections(self) -> None:
        while event := next_event(self._monitor):
            if event.kind == zmq.EVENT_ACCEPTED:
                self._connected.add(event.value)
                continue
            self._connected.discard(event.value)
            link = self._fd_to_link.pop(event.value, None)
            if link is not None:
                link.lose("the connection broke, or it was silent for too long")

    def _answer(self, name: bytes, data: zmq.Frame) -> None:
        if data.buffer[:1] != bytes([Kind.HELLO]):
            return  # the last words to a link that is closed
        answer: hello.Welcome | hello.Refusal = hello.Welcome(self._identity.name)
        try:
            said = hello.read_hello(bytes(data.buffer[PREFIX.size :]))
            refusal = hello.refusal_of(said, self._identity, self._settings.max_frame_bytes)
            if refusal is not None:
                raise RefusedError(refusal.reason)
            self._add(name, int(data.get(zmq.SRCFD)), said)
        except RefusedError as error:
            log.warning("refused a link: %s", str(error))
            answer = hello.Refusal(str(error))
        with contextlib.suppress(PeerLostError):
            self.send(name, message(Kind.ANSWER, hello.encode(answer)))

    def _add(self, name: bytes, fd: int, said: hello.Hello) -> None:
        # The descriptor may have been another connection's, and that one's end be untold.
        self._watch_connections()
        post = _PeerPost(self, name)
        link = RemoteLink(said.name, said.max_frame_bytes, post, self._forget(name, fd))
        self._name_to_link[name] = link
        if fd in self._connected:
            self._fd_to_link[fd] = link
        else:
            link.lose("it hung up as soon as it had said Hello")

    def _forget(self, name: bytes, fd: int) -> Callable[[RemoteLink], None]:
        def forget(link: RemoteLink) -> None:
            del self._name_to_link[name]
            if self._fd_to_link.get(fd) is link:
                del self._fd_to_link[fd]
            with contextlib.suppress(PeerLostError):
                self.send(name, message(Kind.GOODBYE))

        return forget


class _PeerPost:
    """The listener's socket, as one link has it."""

    def __init__(self, listener: RemoteListener, name: bytes) -> None:
        self._listener = listener
        self._name = name

    @property
    def fds(self) -> tuple[int, ...]:
        return self._listener.fds

    def send(self, data: memoryview) -> None:
        self._listener.send(self._name, data)

    def collect(self) -> None:
        self._listener.collect()

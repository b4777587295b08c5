"""Where links between nodes begin."""

import zmq

from experts.transport.address import TcpAddress
from experts.transport.curve_keys import CurveKeys, Gatekeeper
from experts.transport.link import Identity, Link, LinkSettings
from experts.transport.poller import Poller
from experts.transport.remote_dialer import RemoteConnection
from experts.transport.remote_link import RemoteLink
from experts.transport.remote_listener import RemoteListener
from experts.transport.zmq_socket import Context
from infra.errors import ConfigError


class RemoteDoor:
    """All of a hub's links to other nodes, and the thread of ZeroMQ that carries them."""

    def __init__(
        self, identity: Identity, settings: LinkSettings, secret: str, poller: Poller
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._keys = CurveKeys.of(secret)
        self._poller = poller
        self._context: Context = zmq.Context()
        self._gatekeeper = Gatekeeper(self._context, self._keys)
        self._listeners: list[RemoteListener] = []
        self._dialed: list[RemoteConnection] = []
        self._poller.watch(self._gatekeeper.fd, _nothing)

    @property
    def links(self) -> tuple[RemoteLink, ...]:
        """Those that are not closed."""
        came_in = [link for listener in self._listeners for link in listener.links]
        return (*came_in, *(c.link for c in self._dialed if c.link is not None))

    def ready(self) -> list[Link]:
        """Take in what has come, and say which links are ready."""
        if self._listeners:
            self._gatekeeper.answer()
        for listener in self._listeners:
            listener.collect()
        for connection in self._dialed:
            connection.collect()
        return [link for link in self.links if link.is_ready]

    def listen(self, address: TcpAddress) -> str:
        """See `LinkHub`."""
        parts = (self._context, self._keys, self._identity, self._settings)
        listener = RemoteListener(*parts, address)
        self._listeners.append(listener)
        self._watch(listener)
        return listener.address

    def dial(self, address: TcpAddress) -> RemoteLink:
        """See `LinkHub`."""
        if address.port == 0:
            raise ConfigError(f"{address.url} has no port; nobody can be dialled there")
        connection = RemoteConnection(self._context, self._keys, self._settings, address)
        timeout_s = self._settings.set_up_timeout_s
        try:
            link = connection.dial(self._identity, timeout_s, lambda: self._hang_up(connection))
        except BaseException:
            connection.close()
            raise
        self._dialed.append(connection)
        self._watch(connection)
        return link

    def close(self) -> None:
        """Close all; what is on its way has half a second."""
        for link in self.links:
            link.close()
        for listener in self._listeners:
            self._unwatch(listener)
            listener.close()
        self._poller.unwatch(self._gatekeeper.fd)
        self._gatekeeper.close()
        self._context.term()

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other."""
        for listener in self._listeners:
            listener.check_invariants()
        for connection in self._dialed:
            assert connection.link is not None
            connection.link.check_invariants()

    def _hang_up(self, connection: RemoteConnection) -> None:
        self._dialed.remove(connection)
        self._unwatch(connection)
        connection.close()

    def _watch(self, source: RemoteListener | RemoteConnection) -> None:
        for fd in source.fds:
            self._poller.watch(fd, _nothing)

    def _unwatch(self, source: RemoteListener | RemoteConnection) -> None:
        for fd in source.fds:
            self._poller.unwatch(fd)


def _nothing() -> None:
    """Sleep is over; `ready` looks at everything."""

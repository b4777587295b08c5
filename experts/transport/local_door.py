"""Where links on one node begin: sockets in a folder that only its owner may enter."""

import contextlib
import errno
import logging
import os
import socket
import struct
import time
from pathlib import Path

from experts.transport import local_set_up
from experts.transport.address import UnixAddress
from experts.transport.bell import Bell
from experts.transport.errors import PeerLostError, RefusedError
from experts.transport.link import Identity, Link, LinkSettings
from experts.transport.local_link import LocalLink
from experts.transport.local_set_up import LocalParts
from experts.transport.poller import HANG_UP, NEWLY, READ, Poller
from infra.errors import ConfigError

log = logging.getLogger(__name__)

_BACKLOG = 64
_TIME_VALUE = struct.Struct("ll")
_MAX_SILENT = 64
"""Connections that have said nothing yet."""
_PROBE_TIMEOUT_S = 0.1


class LocalDoor:
    """All of a hub's links on its node."""

    def __init__(self, identity: Identity, settings: LinkSettings, poller: Poller) -> None:
        self._identity = identity
        self._settings = settings
        self._poller = poller
        self._bell = Bell()
        self._poller.watch(self._bell.fd, _nothing, READ | NEWLY)
        self._listeners: list[tuple[socket.socket, Path]] = []
        self._silent: dict[socket.socket, float] = {}
        """When each connection came that has not said Hello; oldest first."""
        self._links: list[LocalLink] = []

    @property
    def bell(self) -> Bell:
        """What the hub's sleep ends by."""
        return self._bell

    @property
    def links(self) -> tuple[LocalLink, ...]:
        """Those that are not closed."""
        return tuple(self._links)

    def ready(self) -> list[Link]:
        """The links that are ready. No system call."""
        return [link for link in self._links if link.is_ready]

    def listen(self, address: UnixAddress) -> str:
        """See `LinkHub`."""
        path = address.path
        try:
            _check_folder(path.parent)
            listener = _bound(path)
        except OSError as error:
            raise ConfigError(f"cannot listen at {path}: {error.strerror}") from error
        self._listeners.append((listener, path))
        self._poller.watch(listener.fileno(), lambda: self._accept(listener))
        return f"unix://{path}"

    def dial(self, address: UnixAddress) -> LocalLink:
        """See `LinkHub`."""
        connection = _packet_socket()
        _set_timeout(connection, self._settings.set_up_timeout_s)
        try:
            connection.connect(str(address.path))
            wanted = self._settings.max_frame_bytes
            parts = local_set_up.dial(connection, self._identity, wanted, self._bell)
        except RefusedError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise PeerLostError(f"nobody answers at unix://{address.path}: {error}") from error
        return self._add(parts)

    def close(self) -> None:
        """Close all links and sockets, and take the sockets' names away."""
        for link in self.links:
            link.close()
        for connection in tuple(self._silent):
            self._hang_up(connection)
        for listener, path in self._listeners:
            self._poller.unwatch(listener.fileno())
            listener.close()
            path.unlink(missing_ok=True)
        self._listeners.clear()
        self._poller.unwatch(self._bell.fd)
        self._bell.close()

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other."""
        assert len(self._silent) <= _MAX_SILENT
        for link in self._links:
            link.check_invariants()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        try:
            local_set_up.checked_pid(connection)
        except RefusedError as error:
            log.warning("refused a link: %s", str(error))
            connection.close()
            return
        connection.setblocking(False)
        self._hang_up_on_the_silent()
        self._silent[connection] = time.monotonic()
        self._poller.watch(connection.fileno(), lambda: self._answer(connection))

    def _answer(self, connection: socket.socket) -> None:
        limit = self._settings.max_frame_bytes
        try:
            parts = local_set_up.answer(connection, self._identity, limit, self._bell)
        except BlockingIOError:
            return
        except (RefusedError, OSError) as error:
            log.warning("refused a link: %s", str(error))
            self._hang_up(connection)
            return
        self._poller.unwatch(connection.fileno())
        del self._silent[connection]
        self._add(parts)

    def _add(self, parts: LocalParts) -> LocalLink:
        limit = parts.max_frame_bytes
        link = LocalLink(parts.peer, parts.rings, self._bell, limit, self._forget)
        self._links.append(link)
        for fd in link.fds:
            self._poller.watch(fd, lambda: self._check(link), READ | HANG_UP)
        return link

    def _check(self, link: LocalLink) -> None:
        link.check_peer()
        if link.is_lost:
            self._unwatch(link)

    def _forget(self, link: LocalLink) -> None:
        self._unwatch(link)
        self._links.remove(link)

    def _unwatch(self, link: LocalLink) -> None:
        for fd in link.fds:
            self._poller.unwatch(fd)

    def _hang_up(self, connection: socket.socket) -> None:
        del self._silent[connection]
        self._poller.unwatch(connection.fileno())
        connection.close()

    def _hang_up_on_the_silent(self) -> None:
        """On those whose time is over, and on the oldest where there are too many."""
        over = time.monotonic() - self._settings.set_up_timeout_s
        for connection, since in tuple(self._silent.items()):
            if since < over or len(self._silent) >= _MAX_SILENT:
                self._hang_up(connection)


def _nothing() -> None:
    """Sleep is over; `ready` looks at everything."""


def _packet_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def _set_timeout(connection: socket.socket, timeout_s: float) -> None:
    """The kernel's own, since `settimeout` does not wait for a queue that is full."""
    time_value = _TIME_VALUE.pack(int(timeout_s), max(1, int(timeout_s % 1 * 1e6)))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, time_value)


def _check_folder(folder: Path) -> None:
    """Make it, or see that nobody else may enter."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigError(f"others may enter {folder}; chmod it to 0700, or choose another")


def _bound(path: Path) -> socket.socket:
    """A socket that listens there; a name whose process is dead is taken over."""
    listener = _packet_socket()
    try:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_over(path):
                raise
            path.unlink()
            listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _is_left_over(path: Path) -> bool:
    """Whether it is a socket that nobody listens at."""
    if not path.is_socket():
        return False
    with contextlib.closing(_packet_socket()) as probe:
        _set_timeout(probe, _PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False

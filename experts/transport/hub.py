"""The hub: all links of one thread, to processes of this node and of others."""

import time
from types import TracebackType
from typing import Self

from experts.transport import address as addresses
from experts.transport.address import UnixAddress
from experts.transport.link import Identity, Link, LinkSettings
from experts.transport.local_door import LocalDoor
from experts.transport.poller import Poller
from experts.transport.remote_door import RemoteDoor
from infra.errors import ConfigError

_MAX_LOOKS = 16
"""Waits that find something at once until the sockets are looked after all the same."""


class Hub:
    """See `experts.transport.link.LinkHub`.

    `secret` is what the processes of the cluster share; links between nodes need it.
    """

    def __init__(
        self,
        identity: Identity,
        settings: LinkSettings | None = None,
        secret: str | None = None,
    ) -> None:
        self._identity = identity
        self._settings = settings or LinkSettings()
        self._secret = secret
        self._poller = Poller()
        self._local = LocalDoor(identity, self._settings, self._poller)
        self._remote: RemoteDoor | None = None
        self._looks = 0
        self._is_woken = False
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def links(self) -> tuple[Link, ...]:
        """See `LinkHub`."""
        return (*self._local.links, *(self._remote.links if self._remote else ()))

    def listen(self, address: str) -> str:
        """See `LinkHub`."""
        where = addresses.parse(address)
        if isinstance(where, UnixAddress):
            return self._local.listen(where)
        return self._remote_door().listen(where)

    def dial(self, address: str) -> Link:
        """See `LinkHub`."""
        where = addresses.parse(address)
        if isinstance(where, UnixAddress):
            return self._local.dial(where)
        return self._remote_door().dial(where)

    def wait(self, timeout_s: float) -> list[Link]:
        """See `LinkHub`."""
        deadline = time.monotonic() + timeout_s
        ready = self._spin(deadline) if self._settings.spin_s else self._ready()
        self._looks += 1
        if not ready or self._looks > _MAX_LOOKS:
            self._looks = 0
            ready = self._sleep(deadline)
        self._is_woken = False
        return ready

    def wake(self) -> None:
        """See `LinkHub`."""
        self._is_woken = True
        self._local.bell.ring()

    def close(self) -> None:
        """See `LinkHub`."""
        if not self._is_closed:
            self._is_closed = True
            self._local.close()
            if self._remote is not None:
                self._remote.close()
            self._poller.close()

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other."""
        self._local.check_invariants()
        if self._remote is not None:
            self._remote.check_invariants()

    def _ready(self) -> list[Link]:
        if self._remote is None:
            return self._local.ready()
        return self._local.ready() + self._remote.ready()

    def _spin(self, deadline: float) -> list[Link]:
        until = min(deadline, time.monotonic() + self._settings.spin_s)
        ready: list[Link] = []
        while not ready and time.monotonic() < until:
            ready = self._ready()
        return ready

    def _sleep(self, deadline: float) -> list[Link]:
        """Sleep until a link is ready, or the time is over. Looks after the sockets."""
        bell = self._local.bell
        while True:
            bell.await_frames()
            try:
                # A frame that came before the bell was set has rung nobody.
                is_over = bool(self._ready()) or self._is_woken
                self._poller.poll(0.0 if is_over else deadline - time.monotonic())
            finally:
                bell.has_frames()
            ready = self._ready()
            if ready or self._is_woken or time.monotonic() >= deadline:
                return ready

    def _remote_door(self) -> RemoteDoor:
        if self._remote is None:
            if self._secret is None:
                raise ConfigError("links between nodes need the cluster's secret")
            self._remote = RemoteDoor(
                self._identity, self._settings, self._secret, self._poller
            )
        return self._remote

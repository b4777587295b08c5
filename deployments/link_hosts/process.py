"""A host as a process of its own, without Ray.

The first line that it reads is JSON: its settings, since a secret on a command line is
everybody's. It writes one line, a `HostCard`, when it can be dialled, and ends on SIGTERM, or
when its standard input is closed: so it never outlives who has started it.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from experts.directory import HostCard
from experts.types import HostId


class Served(Protocol):
    """A host, from when it can be dialled."""

    host: HostId
    addresses: tuple[str, ...]

    @property
    def failure(self) -> BaseException | None:
        """What has ended `run`, if it was not `close`."""

    def run(self) -> None:
        """Serve until `close`."""

    def close(self) -> None:
        """Have `run` return."""


def serve(open_host: Callable[[dict[str, Any]], Served], stdin_fd: int) -> int:
    """Serve until told to end; the exit status. `open_host` gets the settings."""
    with os.fdopen(stdin_fd, "rb", closefd=False) as lines:
        fields = json.loads(lines.readline())
    host = open_host(fields)
    signal.signal(signal.SIGTERM, lambda *_: host.close())
    threading.Thread(target=_close_at_end, args=(stdin_fd, host), daemon=True).start()
    sys.stdout.write(json.dumps(HostCard(host.host, host.addresses).as_dict()) + "\n")
    sys.stdout.flush()
    # A thread of its own has helpers of its own, which are where it wants them.
    thread = threading.Thread(target=host.run)
    thread.start()
    thread.join()
    return 0 if host.failure is None else 1


def _close_at_end(stdin_fd: int, host: Served) -> None:
    while os.read(stdin_fd, 4096):
        pass
    host.close()

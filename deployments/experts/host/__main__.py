"""An expert host as a process of its own, without Ray: `python -m deployments.experts.host`.

The first line that it reads is JSON: `model_path` beside the fields of `HostSettings`, of
which `link` is an object too. It writes one line, a `HostCard`, when it can be dialled, and
ends on SIGTERM, or when its standard input is closed: so it never outlives who has
started it. The settings come this way since a secret on a command line is everybody's.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from deployments.experts.host.host import ExpertHost
from deployments.experts.host.settings import HostSettings
from experts.directory import HostCard
from experts.transport.link import LinkSettings


def settings_of(fields: dict[str, Any]) -> HostSettings:
    """From JSON types."""
    folder, link = Path(fields["unix_folder"]), LinkSettings(**fields.get("link", {}))
    return HostSettings(**fields | {"unix_folder": folder, "link": link})


def main(stdin_fd: int) -> int:
    """Serve until told to end; the exit status."""
    with os.fdopen(stdin_fd, "rb", closefd=False) as lines:
        fields = json.loads(lines.readline())
    host = ExpertHost.open(Path(fields.pop("model_path")), settings_of(fields))
    signal.signal(signal.SIGTERM, lambda *_: host.close())
    threading.Thread(target=_close_at_end, args=(stdin_fd, host), daemon=True).start()
    card = HostCard(host.host, host.addresses)
    sys.stdout.write(json.dumps(card.as_dict()) + "\n")
    sys.stdout.flush()
    # A thread of its own has helpers of its own, which are where it wants them.
    thread = threading.Thread(target=host.run)
    thread.start()
    thread.join()
    return 0 if host.failure is None else 1


def _close_at_end(stdin_fd: int, host: ExpertHost) -> None:
    while os.read(stdin_fd, 4096):
        pass
    host.close()


if __name__ == "__main__":
    sys.exit(main(sys.stdin.fileno()))

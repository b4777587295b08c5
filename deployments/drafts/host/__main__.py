"""A draft host as a process of its own, without Ray: `python -m deployments.drafts.host`.

The first line that it reads is JSON: `engine_model` and `draft_model`, folders, beside the
fields of `DraftHostSettings`. It writes one line, a `HostCard`, when it can be dialled, and
ends on SIGTERM, or when its standard input is closed: so it never outlives who has started it.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from deployments.drafts.host.host import DraftHost
from deployments.drafts.host.settings import DraftHostSettings
from experts.directory import HostCard
from router.speculation.settings import DraftSection


def settings_of(fields: dict[str, Any]) -> DraftHostSettings:
    """From JSON types."""
    section = DraftSection.model_validate(fields.pop("section"))
    return DraftHostSettings(
        **fields | {"unix_folder": Path(fields["unix_folder"]), "section": section}
    )


def main(stdin_fd: int) -> int:
    """Serve until told to end; the exit status."""
    with os.fdopen(stdin_fd, "rb", closefd=False) as lines:
        fields = json.loads(lines.readline())
    models = Path(fields.pop("engine_model")), Path(fields.pop("draft_model"))
    host = DraftHost.open(*models, settings_of(fields))
    signal.signal(signal.SIGTERM, lambda *_: host.close())
    threading.Thread(target=_close_at_end, args=(stdin_fd, host), daemon=True).start()
    sys.stdout.write(json.dumps(HostCard(host.host, host.addresses).as_dict()) + "\n")
    sys.stdout.flush()
    # A thread of its own has helpers of its own, which are where it wants them.
    thread = threading.Thread(target=host.run)
    thread.start()
    thread.join()
    return 0 if host.failure is None else 1


def _close_at_end(stdin_fd: int, host: DraftHost) -> None:
    while os.read(stdin_fd, 4096):
        pass
    host.close()


if __name__ == "__main__":
    sys.exit(main(sys.stdin.fileno()))

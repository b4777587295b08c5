"""Files that are read anew when they change, without a restart.

They are looked at, not listened to: secrets of Kubernetes change by the swap of a
link some folders up, which no watch on the file itself would see.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

Signature = tuple[int, int, int, int, int]


class Refreshed(Protocol):
    """Something that was read from files."""

    def refresh(self) -> None:
        """Take what the files say where they have changed; it may block on a disk.

        Files that do not hold change nothing, are complained of in the log once, and
        are tried again: a disk may fail without the file becoming another one.
        """
        ...


def signature_of(path: Path) -> Signature | None:
    """What changes when the file, or the file that a link leads to, is another one.

    None where there is none.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    # The time of the last change of mode, owner or content, which nobody can set back.
    changed_ns = found.st_ctime_ns
    return found.st_dev, found.st_ino, found.st_mtime_ns, changed_ns, found.st_size


async def watch(sources: Sequence[Refreshed], period_s: float = 1.0) -> None:
    """Refresh these for ever, on a thread: a slow disk holds up no request."""
    while True:
        await asyncio.sleep(period_s)
        for source in sources:
            try:
                await asyncio.to_thread(source.refresh)
            except Exception:  # the boundary of a task that must go on
                log.exception("a changed file was not taken")

"""A file that is replaced: whole or not at all, and readable for whom it was."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A new file beside `path` that takes its place when the block ends well.

    It has the mode of the file that is there and, where this process may give it, its
    owner and group; mode 0600 where there is none. What is written is on the disk before
    it can be seen. Resolve a link first, or the link is what is replaced. Raises OSError.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _take_after(path, handle)
            yield file
            file.flush()
            os.fsync(handle)
            Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _take_after(path: Path, handle: int) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    # One alone may be allowed: a group that this process is in. The mode comes last,
    # since a change of owner takes bits of it away.
    for owner, group in ((found.st_uid, -1), (-1, found.st_gid)):
        with suppress(OSError):
            os.fchown(handle, owner, group)
    os.fchmod(handle, stat.S_IMODE(found.st_mode))

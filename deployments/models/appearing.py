"""A directory that appears whole or not at all, whatever ends the process that fills it."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import ConfigError

_NO_PLACE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """An empty directory beside `path` that takes this name when the block ends well.

    If it does not, nothing stays; what a killed process left is cleared away by
    the next one. Raises `ConfigError` if there is something at `path`, if
    another process is filling it, or if the disk does not take it.
    """
    path = path.expanduser().absolute()
    try:
        with _reserved(path) as partial:
            yield partial
            partial.rename(path)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _reserved(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.partial")
    _check_free(path)
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        _lock(handle, partial, path)
        try:
            _clear(partial)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(handle)


def _check_free(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise ConfigError(f"{path} is there already; choose another directory or remove it")


def _lock(handle: int, partial: Path, path: Path) -> None:
    """Held until `handle` is closed, by the end of the process at the latest."""
    busy = ConfigError(f"another process is writing {path} at the moment")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    # Whoever held it until now may have removed or renamed it.
    if not partial.exists() or not partial.samefile(f"/proc/self/fd/{handle}"):
        raise busy


def _clear(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()

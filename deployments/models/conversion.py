"""Convert a source once, whoever asks first; everyone else gets the result.

A conversion is made in `<name>.partial` under a lock, gets its manifest, and
is renamed to `<name>`. The name holds the source's digest and the converter,
so another source or converter never touches a directory that is in use.
"""

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deployments.models.manifest import is_intact, write_manifest
from infra.errors import ConfigError
from infra.progress import Progress

_LOCK_POLL_S = 0.1


class Converter(Protocol):
    """Makes a checkpoint directory of a source file."""

    @property
    def version(self) -> str:
        """Changes whenever the same source would give other files; cheap to read."""

    def convert(self, source: Path, target: Path, progress: Progress) -> None:
        """Fill the empty directory `target` with plain files.

        Raises `ConfigError` if the source cannot be converted; `target` is
        thrown away then. May take minutes.
        """


@dataclass(frozen=True)
class Source:
    """A file to convert, and its digest."""

    path: Path
    sha256: str


def convert_once(
    source: Source, converter: Converter, cache_dir: Path, progress: Progress
) -> Path:
    """Directory with the conversion of `source`, made now unless it is there.

    Safe to call from many processes at once. Takes about a millisecond if an
    intact conversion exists; a broken one is replaced. Raises `ConfigError`
    if the source cannot be converted or the cache has no room.
    """
    target = cache_dir / _name(source, converter.version)
    if is_intact(target, source.sha256, converter.version):
        return target
    with _no_room_is_a_config_error(cache_dir), _locked(target, progress):
        if not is_intact(target, source.sha256, converter.version):
            _convert_into(target, source, converter, progress)
    return target


def _name(source: Source, version: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", source.path.stem)[:64]
    key = hashlib.sha256(f"{source.sha256} {version}".encode()).hexdigest()[:16]
    return f"{stem}-{key}"


def _convert_into(
    target: Path, source: Source, converter: Converter, progress: Progress
) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        converter.convert(source.path, partial, progress)
        progress.report("writing the manifest", None)
        write_manifest(partial, source.sha256, converter.version)
        _replace(target, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(target: Path, partial: Path) -> None:
    """Rename `partial` to `target`; what was there is broken and goes away."""
    broken = target.with_name(f"{target.name}.broken")
    shutil.rmtree(broken, ignore_errors=True)
    if target.exists():
        target.rename(broken)
    partial.rename(target)
    shutil.rmtree(broken, ignore_errors=True)


@contextmanager
def _locked(target: Path, progress: Progress) -> Iterator[None]:
    # Imported here because a finished conversion needs no lock, and this takes 60 ms.
    from filelock import FileLock, Timeout  # noqa: PLC0415

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.report("waiting: another process is converting this model", None)
        lock.acquire(poll_interval=_LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _no_room_is_a_config_error(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise ConfigError(
            f"a converted model cannot be written to {cache_dir}: {error.strerror}; "
            "make room there, or choose another directory"
        ) from error

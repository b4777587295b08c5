"""The output files on disk: locked, mended, appended to."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from coterie.batch.plan import Digest
from coterie.batch.results import Result, encode_outcome, read_results
from coterie.batch.types import Outcome
from coterie.errors import ConfigError


class OutputFile:
    """One output file, held by this process alone while it is open.

    Opening it mends it (see `results`) and remembers whose results it has: `done`, and
    `num_failed` of them. Raises ConfigError where another process holds it, where it is
    no output of a batch, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[Digest] = set()
        self.num_failed = 0
        try:
            self._file = _locked(path)
            self._file = self._mended()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error

    def append(self, outcome: Outcome) -> None:
        """Write one outcome: it outlives this process. Raises ConfigError where it cannot."""
        try:
            _write(self._file, encode_outcome(outcome))
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Bring it to the disk, and let others have it."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _mended(self) -> FileIO:
        """The file without what is sent again: the same one, or another in its place."""
        whole_bytes = num_dropped = 0
        for result in self._results():
            whole_bytes += len(result.line)
            if result.is_kept:
                self.done.add(result.digest)
                self.num_failed += not result.is_ok
            else:
                num_dropped += 1
        if num_dropped:
            return self._rewritten()
        self._file.truncate(whole_bytes)
        return self._file

    def _rewritten(self) -> FileIO:
        """A copy of the lines that are kept takes the file's place, whole or not at all."""
        beside = self.path.with_name(f"{self.path.name}.tmp")
        copy = _locked(beside)
        copy.truncate(0)
        for result in self._results():
            if result.is_kept:
                _write(copy, result.line)
        os.fsync(copy.fileno())
        shutil.copymode(self.path, beside)
        beside.replace(self.path)
        self._file.close()
        return copy

    def _results(self) -> Iterator[Result]:
        with self.path.open("rb") as file:
            yield from read_results(file, str(self.path))


def _locked(path: Path) -> FileIO:
    """The file, made where there is none, open for appending without a buffer."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no regular file; a batch reads what it wrote before")
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(path, file):
            raise BlockingIOError
    except BlockingIOError as error:
        file.close()
        raise ConfigError(f"another process writes {path}; wait for its end") from error
    return file


def _is_at(path: Path, file: FileIO) -> bool:
    """Whether the path still leads to this file: its former holder may have put a copy
    in its place."""
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))


def _write(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]

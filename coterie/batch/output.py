"""The output files on disk: locked, read, mended, appended to."""

import fcntl
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from coterie.batch.plan import Digest
from coterie.batch.results import Result, encode_outcome, read_results
from coterie.batch.types import Outcome
from coterie.errors import ConfigError
from infra.atomic_file import replacing


class OutputFile:
    """One output file, held by this process alone while it is open.

    Opening it reads it (see `results`) and changes nothing in it: a path may be mistyped.
    `served` and `failed` are the requests whose results are final, `unfinished` those that
    are sent again. `mend` makes it ready for `append`. Raises ConfigError where another
    process holds it, where it is no output of a batch, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        # Through a link, so that it goes on pointing to the file.
        self.path = Path(os.path.realpath(path))
        self.served: set[Digest] = set()
        self.failed: set[Digest] = set()
        self.unfinished: set[Digest] = set()
        self._num_bytes: int | None = None
        """Length of the whole lines; None while it takes no more."""
        with self._told():
            self._file = _locked(self.path)
        try:
            for result in self._results():
                self._group_of(result).add(result.digest)
        except BaseException:
            self._file.close()
            raise

    def check_belongs(self, ids: Container[Digest]) -> None:
        """Raises ConfigError where it has results, and none of them is of these requests."""
        groups = (self.served, self.failed, self.unfinished)
        if any(groups) and not self.has_any_of(ids):
            raise ConfigError(
                f"{self.path} has results of other requests, and is left as it is; "
                "give a new file"
            )

    def has_any_of(self, ids: Container[Digest]) -> bool:
        """Whether it has a result of one of these requests."""
        return any(digest in ids for digest in chain(self.served, self.failed, self.unfinished))

    def mend(self) -> None:
        """Take out what is sent again. Raises ConfigError where it cannot be written."""
        with self._told():
            if self.unfinished:
                self._file = self._rewritten()
            self._num_bytes = sum(len(result.line) for result in self._results())
            self._file.truncate(self._num_bytes)

    def append(self, outcome: Outcome) -> None:
        """Write one outcome: it outlives this process.

        Raises ConfigError where it cannot. Then nothing of it stays, and nothing more is
        taken: a later line would be read as the end of half of this one.
        """
        line = encode_outcome(outcome)
        with self._told():
            if self._num_bytes is None:
                raise OSError(None, "it is not mended, or a write to it has failed")
            num_before, self._num_bytes = self._num_bytes, None
            try:
                _write(self._file, line)
            except OSError:
                with suppress(OSError):
                    self._file.truncate(num_before)
                raise
            self._num_bytes = num_before + len(line)

    def close(self) -> None:
        """Bring it to the disk, and let others have it. Raises ConfigError."""
        with self._told(), self._file:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _group_of(self, result: Result) -> set[Digest]:
        if not result.is_kept:
            return self.unfinished
        return self.served if result.is_ok else self.failed

    def _rewritten(self) -> FileIO:
        """A copy of the lines that are kept takes the file's place, whole or not at all."""
        with replacing(self.path) as copy:
            # The lock belongs to the open file, and so to its duplicate.
            fcntl.flock(copy, fcntl.LOCK_EX)
            for result in self._results():
                if result.is_kept:
                    copy.write(result.line)
            copy.flush()
            kept = FileIO(os.dup(copy.fileno()), "ab")
        self._file.close()
        return kept

    def _results(self) -> Iterator[Result]:
        with self.path.open("rb") as file:
            yield from read_results(file, str(self.path))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error


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

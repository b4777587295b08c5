"""Usage records on their way to disk: append-only files, written by a thread.

The request path only appends to a list. The thread writes once a second and makes
sure that what it wrote is on the disk, so that a process that is killed loses the
records of at most that second, and one that is ended in order loses none unless the
disk takes nothing; what is lost is counted and logged.

Each writer has files of its own: `usage-DAY-WRITER-NUMBER.jsonl`, days in UTC.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from msgspec import MsgspecError

from infra.errors import ConfigError
from infra.telemetry.usage_record import UsageRecord, encode_record

log = logging.getLogger(__name__)

FLUSH_PERIOD_S = 1.0
CLOSE_TIMEOUT_S = 5.0
# What is kept while the disk takes nothing: some 30 MB.
MAX_PENDING_RECORDS = 100_000


class UsageWriter:
    """Takes records from any thread; `close` writes what is left.

    Raises ConfigError for a directory that cannot be written to.
    """

    def __init__(
        self,
        directory: Path,
        max_file_bytes: int,
        *,
        flush_period_s: float = FLUSH_PERIOD_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory.expanduser()
        self._max_file_bytes = max_file_bytes
        self._flush_period_s = flush_period_s
        self._now_s = now_s
        self._writer = uuid.uuid4().hex[:12]
        self._number = 0
        self._path: Path | None = None
        self._pending: list[UsageRecord] = []
        self._taken: list[UsageRecord] = []  # on their way to the disk
        self._swap = threading.Lock()
        self._write = threading.Lock()
        self._is_closing = threading.Event()
        self._is_closed = False
        self.num_lost = 0
        self._begin()
        self._thread = threading.Thread(target=self._run, name="usage-writer", daemon=True)
        self._thread.start()

    def append(self, record: UsageRecord) -> None:
        """Take one; never waits for the disk. The records beyond what fits into
        memory while the disk takes nothing are lost, counted in `num_lost`.
        """
        with self._swap:
            if self._is_closed or len(self._pending) >= MAX_PENDING_RECORDS:
                self.num_lost += 1
            else:
                self._pending.append(record)

    def flush(self) -> None:
        """Write what has been taken so far. Raises OSError; nothing is lost then."""
        with self._write:
            with self._swap:
                self._taken, self._pending = self._pending, []
            lines = self._encode_taken()
            try:
                if lines:
                    self._append_lines(lines)
            except OSError:
                with self._swap:
                    self._pending = self._taken + self._pending
                raise
            finally:
                with self._swap:
                    self._taken = []

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left, and what comes in meanwhile, and end the thread.

        What the disk has refused, or not taken after `timeout_s`, is lost, counted and
        logged.
        """
        self._is_closing.set()
        self._thread.join(timeout_s)
        with self._swap:
            self._is_closed = True
            num_left = len(self._taken) + len(self._pending)
            self._pending = []
            self.num_lost += num_left
        if num_left:
            log.error("%d usage records are lost: the disk did not take them", num_left)

    def check_invariants(self) -> None:
        """No more is kept than may be, and no file was begun without a name."""
        assert len(self._pending) <= 2 * MAX_PENDING_RECORDS
        assert (self._path is None) == (self._number == 0)

    def _run(self) -> None:
        while not self._is_closing.wait(self._flush_period_s):
            self._try_flush()
        while self._try_flush() and not self._is_done():
            pass

    def _is_done(self) -> bool:
        """Whether nothing is left; then nothing more is taken."""
        with self._swap:
            self._is_closed = self._is_closed or not self._pending
            return self._is_closed

    def _encode_taken(self) -> bytes:
        """Lines of the records that are on their way; one that has none is lost alone."""
        good: list[UsageRecord] = []
        lines: list[bytes] = []
        for record in self._taken:
            try:
                lines.append(encode_record(record))
            except (ValueError, TypeError, OverflowError, MsgspecError) as error:
                log.error("usage record %s is lost: %s", record.record_id, error)
            else:
                good.append(record)
        with self._swap:
            self.num_lost += len(self._taken) - len(good)
            self._taken = good
        return b"".join(lines)

    def _try_flush(self) -> bool:
        """Whether the disk took all that there was."""
        try:
            self.flush()
        except OSError as error:
            log.error("usage records cannot be written, they are kept for now: %s", error)
            return False
        return True

    def _append_lines(self, lines: bytes) -> None:
        """All of them or, where it fails, none: what is half written is cut off."""
        descriptor = os.open(self._file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, lines)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _file(self) -> Path:
        day = time.strftime("%Y%m%d", time.gmtime(self._now_s()))
        if self._path is None or not self._fits(self._path, day):
            self._number += 1
            name = f"usage-{day}-{self._writer}-{self._number:04d}.jsonl"
            self._path = self._directory / name
        return self._path

    def _fits(self, path: Path, day: str) -> bool:
        if not path.name.startswith(f"usage-{day}-"):
            return False
        return not path.exists() or path.stat().st_size < self._max_file_bytes

    def _begin(self) -> None:
        """Make the directory and the first file, so that records find them."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._append_lines(b"")
        except OSError as error:
            raise ConfigError(f"telemetry.usage_dir: {error}") from error


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]

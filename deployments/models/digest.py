"""SHA-256 digests of large files, remembered as long as a file stays the same.

A file counts as the same while path, size and modification time are.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from deployments.models.atomic import write_json
from infra.progress import Progress

_CHUNK_BYTES = 4 * 1024 * 1024


class _Stamp(NamedTuple):
    path: str
    num_bytes: int
    mtime_ns: int


def file_digest(path: Path, memory_dir: Path, progress: Progress) -> str:
    """SHA-256 of the file in hexadecimal, read from `memory_dir` if known there.

    Raises `OSError` if the file cannot be read.
    """
    stat = path.stat()
    stamp = _Stamp(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    note = memory_dir / f"{hashlib.sha256(stamp.path.encode()).hexdigest()[:32]}.json"
    known = _recall(note, stamp)
    if known is not None:
        return known
    digest = _read_digest(path, stamp.num_bytes, progress)
    write_json(note, {"stamp": list(stamp), "sha256": digest})
    return digest


def _recall(note: Path, stamp: _Stamp) -> str | None:
    try:
        known = json.loads(note.read_bytes())
        return str(known["sha256"]) if known["stamp"] == list(stamp) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _read_digest(path: Path, num_bytes: int, progress: Progress) -> str:
    digest = hashlib.sha256()
    num_read = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_read += len(chunk)
            progress.report(f"checking {path.name}", min(num_read / max(num_bytes, 1), 1.0))
    return digest.hexdigest()

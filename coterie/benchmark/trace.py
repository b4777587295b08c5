"""Request traces: arrivals and lengths that others have recorded.

Two forms are read, told apart by the file's name:

    *.jsonl   Mooncake: {"timestamp": ms, "input_length": n, "output_length": n,
              "hash_ids": [...]}; `hash_ids`, which may be missing, name blocks of
              512 prompt tokens, equal where requests share them
    *.csv     Azure: columns TIMESTAMP (date and time), ContextTokens,
              GeneratedTokens
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coterie.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace; the first one arrives at 0 s."""

    at_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    prefix_blocks: tuple[int, ...] = ()


def read_trace(path: Path) -> list[TraceRequest]:
    """All requests, by arrival. Raises ConfigError for a file of neither form."""
    read = _READER_OF.get(path.suffix)
    if read is None:
        raise ConfigError(f"{path}: a trace is a .jsonl or a .csv file")
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            found = sorted(read(lines), key=lambda request: request.at_s)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no trace of a known form: {error!r}") from error
    if not found:
        raise ConfigError(f"{path} has no requests")
    return [replace(request, at_s=request.at_s - found[0].at_s) for request in found]


def _mooncake(lines: Iterable[str]) -> Iterator[TraceRequest]:
    for line in lines:
        if line.strip():
            row: Any = json.loads(line)
            yield TraceRequest(
                at_s=row["timestamp"] / 1000,
                num_prompt_tokens=max(1, int(row["input_length"])),
                num_output_tokens=max(1, int(row["output_length"])),
                prefix_blocks=tuple(row.get("hash_ids", ())),
            )


def _azure(lines: Iterable[str]) -> Iterator[TraceRequest]:
    for row in csv.DictReader(lines):
        yield TraceRequest(
            at_s=_seconds(row["TIMESTAMP"]),
            num_prompt_tokens=max(1, int(row["ContextTokens"])),
            num_output_tokens=max(1, int(row["GeneratedTokens"])),
        )


def _seconds(stamp: str) -> float:
    """Unix time of a stamp; one without a zone is taken as UTC."""
    moment = datetime.fromisoformat(stamp)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_READER_OF: dict[str, Callable[[Iterable[str]], Iterator[TraceRequest]]] = {
    ".jsonl": _mooncake,
    ".csv": _azure,
}

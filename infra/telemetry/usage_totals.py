"""Usage records summed up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from infra.errors import ConfigError
from infra.telemetry.usage_record import UsageRecord, decode_record

_FILES = "usage-*.jsonl"
GROUP_KEYS = ("tenant", "model", "adapter", "priority", "outcome", "door", "day")


@dataclass
class Total:
    """What a group of requests used."""

    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0

    def add(self, record: UsageRecord) -> None:
        """Count one request."""
        self.num_requests += 1
        self.num_prompt_tokens += record.num_prompt_tokens
        self.num_cached_tokens += record.num_cached_tokens
        self.num_output_tokens += record.num_output_tokens


@dataclass
class Totals:
    """Sums by group, and how many lines could not be read: those that a process was
    writing when it was killed.
    """

    group_to_total: dict[tuple[str, ...], Total] = field(default_factory=dict)
    num_unreadable_lines: int = 0


def sum_usage(
    directory: Path, keys: Sequence[str], since_s: float = 0.0, until_s: float = float("inf")
) -> Totals:
    """Sums of the records that ended in [since_s, until_s), grouped by `keys`.

    Raises ConfigError where the directory or one of its files cannot be read, or a key
    is none of `GROUP_KEYS`: a sum that leaves something out is no sum.
    """
    if unknown := [key for key in keys if key not in GROUP_KEYS]:
        raise ConfigError(
            f"cannot group by {unknown[0]!r}; choose from {', '.join(GROUP_KEYS)}"
        )
    totals = Totals()
    seen: set[str] = set()
    for line in _lines(directory):
        try:
            record = decode_record(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            totals.num_unreadable_lines += 1
            continue
        if record.record_id in seen or not since_s <= record.ended_s < until_s:
            continue
        seen.add(record.record_id)
        group = tuple(_value(record, key) for key in keys)
        totals.group_to_total.setdefault(group, Total()).add(record)
    return totals


def _value(record: UsageRecord, key: str) -> str:
    if key == "day":
        return _day(record.ended_s)
    return str(getattr(record, key) or "")


def _day(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).date().isoformat()


def _lines(directory: Path) -> Iterator[bytes]:
    if not directory.is_dir():
        raise ConfigError(
            f"there is no directory {directory}; name the one of telemetry.usage_dir"
        )
    path = directory
    try:
        # Other than `glob`, this complains of a directory that cannot be read.
        for path in sorted(path for path in directory.iterdir() if path.match(_FILES)):
            with path.open("rb") as file:
                yield from (line for line in file if line.strip())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error

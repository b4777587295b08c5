"""Usage records: written, rotated, kept through failures, summed up."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from infra.telemetry.usage_record import UsageRecord, decode_record, encode_record
from infra.telemetry.usage_totals import Total, sum_usage
from infra.telemetry.usage_writer import UsageWriter
from tests.source_code import REPOSITORY

NOV_20_S, NOV_21_S = 1_795_132_800.0, 1_795_219_200.0


def record(record_id: str = "id", **changes: Any) -> UsageRecord:
    """A finished request of 3 + 5 tokens."""
    made = UsageRecord(
        record_id=record_id,
        request_id="r",
        tenant="a",
        model="m",
        started_s=NOV_21_S,
        ended_s=NOV_21_S + 1,
        outcome="finished",
        num_prompt_tokens=3,
        num_cached_tokens=1,
        num_output_tokens=5,
    )
    return msgspec.structs.replace(made, **changes)


def records_in(directory: Path) -> list[UsageRecord]:
    paths = sorted(directory.glob("usage-*.jsonl"))
    return [decode_record(line) for path in paths for line in path.read_bytes().splitlines()]


def test_a_record_is_written_soon_and_the_rest_at_the_end(tmp_path: Path) -> None:
    writer = UsageWriter(tmp_path / "new", 4096, flush_period_s=0.01)
    first, second = record("1"), record("2", adapter="noisy", error="engine_failed")
    writer.append(first)
    for _ in range(500):
        if any((tmp_path / "new").iterdir()) and records_in(tmp_path / "new"):
            break
        writer._is_closing.wait(0.01)
    assert records_in(tmp_path / "new") == [first]
    writer.append(second)
    writer.close()
    writer.check_invariants()
    assert records_in(tmp_path / "new") == [first, second]


def test_a_full_file_and_a_new_day_begin_another(tmp_path: Path) -> None:
    moments = iter([NOV_20_S] * 4 + [NOV_21_S])
    writer = UsageWriter(tmp_path, 300, flush_period_s=60, now_s=lambda: next(moments))
    for number in range(4):
        writer.append(record(str(number)))
        writer.flush()
        writer.check_invariants()
    writer.close()
    names = [path.name.split("-") for path in sorted(tmp_path.iterdir())]
    assert [(day, end) for _, day, _, end in names] == [
        ("20261120", "0001.jsonl"),
        ("20261120", "0002.jsonl"),
        ("20261121", "0003.jsonl"),
    ]
    assert [r.record_id for r in records_in(tmp_path)] == ["0", "1", "2", "3"]


def test_what_the_disk_refuses_is_kept_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = UsageWriter(tmp_path, 4096, flush_period_s=60)
    written = os.write

    def write_half(descriptor: int, data: bytes) -> int:
        written(descriptor, bytes(data)[:10])
        raise OSError("no space left")

    writer.append(record("1"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write_half)
        with pytest.raises(OSError, match="no space"):
            writer.flush()
    writer.append(record("2"))
    writer.close()
    assert [r.record_id for r in records_in(tmp_path)] == ["1", "2"]


def test_a_directory_that_takes_no_file_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def read_only(path: Any, flags: int, *mode: int) -> int:
        if str(path).startswith(str(tmp_path)) and flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ConfigError, match=r"telemetry\.usage_dir: .*Read-only"):
        UsageWriter(tmp_path, 4096)


def test_records_that_the_disk_refuses_to_the_end_are_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = UsageWriter(tmp_path, 4096, flush_period_s=60)
    monkeypatch.setattr(os, "fsync", _refuse)
    writer.append(record("1"))
    writer.append(record("2"))
    writer.close()
    assert (writer.num_lost, records_in(tmp_path)) == (2, [])
    assert "2 usage records are lost" in caplog.text
    writer.append(record("3"))
    assert writer.num_lost == 3


def test_records_that_come_while_the_last_are_written_are_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = UsageWriter(tmp_path, 4096, flush_period_s=60)
    late = [record("3"), record("2")]
    monkeypatch.setattr(os, "fsync", lambda _: writer.append(late.pop()) if late else None)
    writer.append(record("1"))
    writer.close()
    writer.append(record("4"))
    assert [r.record_id for r in records_in(tmp_path)] == ["1", "2", "3"]
    assert writer.num_lost == 1


def _refuse(_: int) -> None:
    raise OSError(errno.ENOSPC, "no space left")


def test_a_disk_that_hangs_is_not_waited_for_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = UsageWriter(tmp_path, 4096, flush_period_s=60)
    goes_on = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: goes_on.wait(30))
    writer.append(record("1"))
    writer.close(timeout_s=0.05)
    assert writer.num_lost == 1
    assert "1 usage records are lost" in caplog.text
    goes_on.set()


def test_a_record_that_cannot_be_written_is_lost_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = UsageWriter(tmp_path, 4096, flush_period_s=60)
    for given_record in (record("1"), record("2", model="\ud800"), record("3")):
        writer.append(given_record)
    writer.close()
    writer.check_invariants()
    assert [r.record_id for r in records_in(tmp_path)] == ["1", "3"]
    assert writer.num_lost == 1
    assert "usage record 2 is lost" in caplog.text


@pytest.mark.parametrize("what", ["iterdir", "open"])
def test_sums_that_would_leave_out_what_cannot_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (tmp_path / "usage-x.jsonl").write_bytes(encode_record(record("1")))
    monkeypatch.setattr(Path, what, _deny)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        sum_usage(tmp_path, [])


def _deny(*_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_line_that_is_no_text_counts_as_unreadable(tmp_path: Path) -> None:
    line = encode_record(record("1")).replace(b'"a"', b'"\xff"')
    (tmp_path / "usage-x.jsonl").write_bytes(line)
    assert sum_usage(tmp_path, []).num_unreadable_lines == 1


def test_a_killed_process_loses_no_flushed_record(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from tests.infra.telemetry.test_usage import record
from infra.telemetry.usage_writer import UsageWriter
writer = UsageWriter(pathlib.Path({str(tmp_path)!r}), 4096, flush_period_s=60)
writer.append(record("flushed"))
writer.flush()
writer.append(record("lost"))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert done.returncode == -9
    assert [r.record_id for r in records_in(tmp_path)] == ["flushed"]


def test_sums_are_by_group_and_a_copied_record_counts_once(tmp_path: Path) -> None:
    lines = [
        record("1"),
        record("2", tenant="b", num_cached_tokens=0),
        record("3", ended_s=NOV_20_S),
        record("1"),
    ]
    (tmp_path / "usage-x.jsonl").write_bytes(b"".join(map(encode_record, lines)) + b'{"cut')
    totals = sum_usage(tmp_path, ["tenant", "day"], since_s=NOV_20_S)
    assert totals.group_to_total == {
        ("a", "2026-11-20"): Total(1, 3, 1, 5),
        ("a", "2026-11-21"): Total(1, 3, 1, 5),
        ("b", "2026-11-21"): Total(1, 3, 0, 5),
    }
    assert totals.num_unreadable_lines == 1
    assert sum_usage(tmp_path, [], since_s=NOV_21_S).group_to_total == {(): Total(2, 6, 1, 10)}
    assert sum_usage(tmp_path, [], until_s=NOV_21_S).group_to_total == {(): Total(1, 3, 1, 5)}


def test_an_unknown_group_and_a_missing_directory_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot group by 'who'; choose from tenant"):
        sum_usage(tmp_path, ["who"])
    with pytest.raises(ConfigError, match="there is no directory"):
        sum_usage(tmp_path / "none", [])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=8))
def test_a_records_place_and_copies_do_not_change_the_sum(
    ids_and_files: list[tuple[str, str]],
) -> None:
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        for record_id, file in ids_and_files:
            with (directory / f"usage-{file}.jsonl").open("ab") as lines:
                lines.write(encode_record(record(record_id)))
        totals = sum_usage(directory, [])
    num = len({record_id for record_id, _ in ids_and_files})
    assert totals.group_to_total == ({(): Total(num, 3 * num, num, 5 * num)} if num else {})

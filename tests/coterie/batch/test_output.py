"""The output file: what of it counts after a run that was killed at any byte."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.batch.output import OutputFile
from coterie.batch.plan import digest_of
from coterie.batch.results import encode_outcome
from coterie.batch.types import Answer, Fault, Outcome
from coterie.errors import ConfigError
from tests.coterie.batch.lines import ids_in, read_lines


def answered(custom_id: str, status: int = 200) -> Outcome:
    return Outcome(custom_id, Answer(status, "req-1", {"choices": []}))


def unanswered(custom_id: str) -> Outcome:
    return Outcome(custom_id, None, Fault("unavailable", "nothing answers"))


@contextmanager
def opened(path: Path) -> Iterator[OutputFile]:
    with OutputFile(path) as output:
        output.mend()
        yield output


def test_a_result_has_openais_form(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as output:
        output.append(answered("a"))
        output.append(unanswered("b"))
    first, second = read_lines(path)
    assert first.pop("id").startswith("batch_req_")
    response = {"status_code": 200, "request_id": "req-1", "body": {"choices": []}}
    assert first == {"custom_id": "a", "response": response, "error": None}
    assert second["response"] is None
    assert second["error"] == {"code": "unavailable", "message": "nothing answers"}


def test_final_answers_are_kept_and_the_others_make_room(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    outcomes = [answered("a"), unanswered("b"), answered("c", 400), answered("d", 429)]
    path.write_bytes(b"".join(map(encode_outcome, outcomes)))
    path.chmod(0o640)
    with opened(path) as output:
        assert output.served == {digest_of("a")}
        assert output.failed == {digest_of("c")}
        assert output.unfinished == {digest_of("b"), digest_of("d")}
        output.append(answered("b"))
    assert ids_in(path) == ["a", "c", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
    assert path.stat().st_mode & 0o777 == 0o640


_outcomes = st.lists(
    st.builds(
        lambda status, custom_id: answered(custom_id, status) if status else unanswered("u"),
        st.sampled_from([200, 400, 429, 503, None]),
        st.text(max_size=3),
    ),
    max_size=5,
)


@given(outcomes=_outcomes, data=st.data())
def test_a_file_cut_anywhere_has_the_whole_lines_before(
    outcomes: list[Outcome], data: st.DataObject
) -> None:
    lines = [encode_outcome(outcome) for outcome in outcomes]
    written = b"".join(lines)
    cut = data.draw(st.integers(0, len(written)))
    whole = [line for i, line in enumerate(lines) if len(b"".join(lines[: i + 1])) <= cut]
    final = [line for line in whole if b'"status_code": 200' in line or b": 400" in line]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        path.write_bytes(written[:cut])
        with opened(path) as output:
            assert path.read_bytes() == b"".join(final)
            assert output.served | output.failed == {
                digest_of(json.loads(x)["custom_id"]) for x in final
            }


@pytest.mark.parametrize(
    "text",
    [
        "my notes",
        "my notes\n",
        '{"custom_id": "a", "method": "POST"}\n',
        '{"custom_id": "a", "response": {"status_code": "200"}}\n',
        '{"custom_id": 1, "response": null}\n',
        "[]\n",
    ],
)
def test_a_file_of_something_else_is_refused_and_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(ConfigError, match="line 1: no line of a batch's output"):
        OutputFile(path)
    assert path.read_text() == text


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with OutputFile(path), pytest.raises(ConfigError, match="another process writes"):
        OutputFile(path)
    with OutputFile(path):
        pass


def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*No such file"):
        OutputFile(tmp_path / "nowhere" / "out.jsonl")


class FullDisk(FileIO):
    """Has room for ten bytes more."""

    def write(self, data: Any, /) -> int:
        if len(data) <= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data[:10])


def test_what_a_full_disk_cuts_off_is_taken_back_and_nothing_follows_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as output:
        output.append(answered("a"))
        whole, real = path.read_bytes(), output._file
        output._file = FullDisk(path, "ab")
        with pytest.raises(ConfigError, match="No space left"):
            output.append(answered("b"))
        output._file = real
        with pytest.raises(ConfigError, match="a write to it has failed"):
            output.append(answered("c"))
        assert path.read_bytes() == whole


def test_opening_changes_nothing_until_the_file_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    before = encode_outcome(answered("a", 429)) + encode_outcome(answered("b"))[:-5]
    path.write_bytes(before)
    with OutputFile(path) as output, pytest.raises(ConfigError, match="not mended"):
        output.append(answered("c"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("status", [200, 400, 429])
def test_results_of_other_requests_alone_are_refused_whatever_they_are(
    tmp_path: Path, status: int
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(encode_outcome(answered("a", status)))
    with OutputFile(path) as output:
        output.check_belongs({digest_of("a"), digest_of("b")})
        with pytest.raises(ConfigError, match="results of other requests"):
            output.check_belongs({digest_of("b")})


def test_a_link_to_the_output_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    path.write_bytes(encode_outcome(answered("a", 429)))
    link.symlink_to(path)
    with opened(link) as output:
        output.append(answered("a"))
    assert link.is_symlink()
    assert [fields["response"]["status_code"] for fields in read_lines(path)] == [200]


def test_a_neighbour_named_tmp_is_left_alone(tmp_path: Path) -> None:
    path, neighbour = tmp_path / "out.jsonl", tmp_path / "out.jsonl.tmp"
    neighbour.write_text("precious")
    path.write_bytes(encode_outcome(answered("a", 429)))
    with opened(path):
        pass
    assert neighbour.read_text() == "precious"


def test_a_mended_file_is_still_held_by_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(encode_outcome(answered("a", 429)))
    with opened(path), pytest.raises(ConfigError, match="another process writes"):
        OutputFile(path)


def test_a_device_is_no_output() -> None:
    with pytest.raises(ConfigError, match="no regular file"):
        OutputFile(Path("/dev/zero"))

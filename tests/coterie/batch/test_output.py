"""The output file: what of it counts after a run that was killed at any byte."""

import errno
import json
import os
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

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


def test_a_result_has_openais_form(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with OutputFile(path) as output:
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
    with OutputFile(path) as output:
        assert output.done == {digest_of("a"), digest_of("c")}
        assert output.num_failed == 1
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
        with OutputFile(path) as output:
            assert path.read_bytes() == b"".join(final)
            assert output.done == {digest_of(json.loads(x)["custom_id"]) for x in final}


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


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "out.jsonl") as output:
        output._file = FullDisk(output._file.name, "ab")
        with pytest.raises(ConfigError, match="No space left"):
            output.append(answered("a"))


class FullDisk(FileIO):
    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_device_is_no_output() -> None:
    with pytest.raises(ConfigError, match="no regular file"):
        OutputFile(Path("/dev/zero"))

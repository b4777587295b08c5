"""What is read of an input file, and what is refused before anything is sent."""

from pathlib import Path

import pytest

from coterie.batch.plan import digest_of, parse_request, read_ids, requests_left
from coterie.errors import InvalidArgumentError
from tests.coterie.batch.lines import line, write_lines


def test_requests_are_read_in_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", ["\ufeff" + line("b"), "", line("a"), "  "])
    assert read_ids(path) == {digest_of("a"), digest_of("b")}
    found = [(request.line, request.custom_id) for request in requests_left(path, set())]
    assert found == [(1, "b"), (3, "a")]


def test_what_has_a_result_is_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [line("a"), line("b"), line("c")])
    done = {digest_of("b"), digest_of("of another file")}
    assert [request.custom_id for request in requests_left(path, done)] == ["a", "c"]


def test_a_custom_id_that_comes_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [line("a"), line("b"), "", line("a")])
    with pytest.raises(InvalidArgumentError, match=r"lines 1 and 4 have the same .* 'a'"):
        read_ids(path)


def test_all_problems_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", ["{", line("a"), line("b", method="GET")])
    with pytest.raises(InvalidArgumentError) as caught:
        read_ids(path)
    told = str(caught.value).splitlines()
    assert told[1].startswith("  line 1: no JSON")
    assert told[2:] == ['  line 3: method must be "POST"']


def test_a_file_of_problems_is_read_only_so_far(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", ["{"] * 50)
    with pytest.raises(InvalidArgumentError) as caught:
        read_ids(path)
    assert len(str(caught.value).splitlines()) == 12


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no requests"):
        read_ids(write_lines(tmp_path / "in.jsonl", [""]))


def test_an_input_that_can_be_read_once_alone_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no regular file"):
        read_ids(Path("/dev/null"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "no JSON object"),
        ("[" * 100_000, "no JSON"),
        ('"\ud800', "no JSON"),
        (line("", body={}), "custom_id"),
        ('{"custom_id": 7}', "custom_id"),
        (line("a", url="/v1/images"), "url must be one of /v1/chat/completions, "),
        (line("a", url=None), "url must be"),
        (line("a", body="x"), "body must be an object"),
        (line("a", body={"stream": True}), "body.stream"),
    ],
)
def test_a_line_that_is_no_request_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        parse_request(1, text.encode("utf-8", "surrogatepass"))


def test_ids_of_any_text_have_digests() -> None:
    ids = ["a", "b", "ä", "\ud800", ""]
    assert len({digest_of(custom_id) for custom_id in ids}) == len(ids)

"""Reading the input: what is wrong with it, and what is left to send.

The file is read twice, a line at a time: once to find all that is wrong before anything
is sent, once to send. What stays in memory is the digest of each request's id: about 90
bytes, whatever the length of the request.
"""

import hashlib
import json
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from coterie.batch.types import PATHS, BatchRequest
from coterie.errors import InvalidArgumentError

_MAX_PROBLEMS = 10
_DIGEST_BYTES = 16

Digest = bytes


def digest_of(custom_id: str) -> Digest:
    """16 bytes that stand for an id."""
    data = custom_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def read_ids(path: Path) -> set[Digest]:
    """Read the whole input once: the digest of each request's id.

    Raises InvalidArgumentError that tells the first problems, each with its line.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"{path} is no regular file; a batch reads its input twice")
    problems: list[str] = []
    seen: set[Digest] = set()
    for line, text in _lines(path):
        try:
            request = parse_request(line, text)
        except InvalidArgumentError as error:
            problems.append(f"line {line}: {error}")
        else:
            digest = digest_of(request.custom_id)
            if digest in seen:
                problems.append(_twice(path, request))
            seen.add(digest)
        if len(problems) >= _MAX_PROBLEMS:
            problems.append("and perhaps more")
            break
    if problems:
        raise InvalidArgumentError(f"{path}: nothing was sent\n  " + "\n  ".join(problems))
    if not seen:
        raise InvalidArgumentError(f"{path} has no requests")
    return seen


def requests_left(path: Path, done: Container[Digest]) -> Iterator[BatchRequest]:
    """The requests without a result, in the input's order; the file is read along."""
    for line, text in _lines(path):
        request = parse_request(line, text)
        if digest_of(request.custom_id) not in done:
            yield request


def parse_request(line: int, text: bytes) -> BatchRequest:
    """One line of the input. Raises InvalidArgumentError that says what is wrong."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidArgumentError("no JSON object")
    wrong = next(_complaints(fields), None)
    if wrong is not None:
        raise InvalidArgumentError(wrong)
    return BatchRequest(line, fields["custom_id"], fields["url"], fields["body"])


def _complaints(fields: dict[str, Any]) -> Iterator[str]:
    custom_id, body = fields.get("custom_id"), fields.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        yield "custom_id must be a text, not empty"
    if fields.get("method") != "POST":
        yield 'method must be "POST"'
    if fields.get("url") not in PATHS:
        yield f"url must be one of {', '.join(PATHS)}"
    if not isinstance(body, dict):
        yield "body must be an object"
    elif body.get("stream"):
        yield "body.stream: a batch has whole answers; leave it out"


def _twice(path: Path, request: BatchRequest) -> str:
    first = next(_lines_with(request.custom_id, _lines(path)))
    return f"lines {first} and {request.line} have the same custom_id {request.custom_id!r}"


def _lines_with(custom_id: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[int]:
    for line, text in lines:
        try:
            if parse_request(line, text).custom_id == custom_id:
                yield line
        except InvalidArgumentError:
            continue


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank, with its number."""
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, text

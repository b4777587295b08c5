"""The lines of an output file, and which of them count when a batch is gone on with.

| line                                            | at the next run        |
|-------------------------------------------------|------------------------|
| an answer that is final                         | kept; not sent again   |
| no answer, or one of a server without room      | taken out; sent again  |
| the last one, half-written by a run that ended  | cut off; sent again    |
| anything else                                   | the file is refused    |
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from coterie.batch.plan import Digest, digest_of
from coterie.batch.types import Outcome, is_final
from coterie.errors import ConfigError

_BEGINNING = b'{"id": "batch_req_'


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome's line in OpenAI's form, with the newline at its end."""
    answer, fault = outcome.answer, outcome.fault
    response = answer and {
        "status_code": answer.status,
        "request_id": answer.request_id,
        "body": answer.body,
    }
    line = {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": outcome.custom_id,
        "response": response,
        "error": fault and {"code": fault.code, "message": fault.message},
    }
    return json.dumps(line).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Result:
    """One whole line of an output file. `status` is None where there was no answer."""

    line: bytes
    digest: Digest
    status: int | None

    @property
    def is_kept(self) -> bool:
        """Its request is not sent again."""
        return is_final(self.status)

    @property
    def is_ok(self) -> bool:
        """Its request was served."""
        return self.status is not None and 200 <= self.status < 300


def read_results(file: BinaryIO, name: str) -> Iterator[Result]:
    """Each whole line, from where `file` stands; a half-written last one is left out.

    Raises ConfigError where a line is none of a batch's output: then the file is
    something else, and nothing in it may be changed.
    """
    for number, line in enumerate(file, start=1):
        if line.endswith(b"\n"):
            yield _parse(line, name, number)
        elif not (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
            raise _foreign(name, number)


def _parse(line: bytes, name: str, number: int) -> Result:
    try:
        fields: dict[str, Any] = json.loads(line)
        response, custom_id = fields["response"], fields["custom_id"]
        status = None if response is None else response["status_code"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _foreign(name, number) from error
    if not isinstance(custom_id, str) or not isinstance(status, int | None):
        raise _foreign(name, number)
    return Result(line, digest_of(custom_id), status)


def _foreign(name: str, number: int) -> ConfigError:
    return ConfigError(
        f"{name}, line {number}: no line of a batch's output; give the path of a new file"
    )

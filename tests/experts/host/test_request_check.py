"""Requests that cannot be this host's are known before its slots are looked at."""

import pytest

from experts.host.request_check import (
    HostLimits,
    answer_to,
    answer_to_unreadable,
    fault_of,
)
from experts.transport.messages import (
    AnswerHeader,
    RequestHeader,
    RowType,
    Status,
    write_answer,
    write_request,
)
from experts.types import ModelShape

LIMITS = HostLimits(ModelShape(2, 3, 1, 4, 8), row_type=RowType.BFLOAT16)
GOOD = RequestHeader(
    sequence=9,
    layer=1,
    map_version=1,
    num_rows=1,
    num_pairs=2,
    hidden_size=4,
    row_type=RowType.BFLOAT16,
)


def fault(header: RequestHeader, max_frame_bytes: int = 4096) -> str | None:
    return fault_of(header, LIMITS, max_frame_bytes)


def test_a_request_of_this_host_has_no_fault() -> None:
    assert fault(GOOD) is None
    assert fault(GOOD._replace(num_pairs=0)) is None
    assert fault(GOOD._replace(wants_float32=True)) is None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (GOOD._replace(layer=2), "layer 2 of 2"),
        (GOOD._replace(hidden_size=5), "rows of 5 numbers, not 4"),
        (GOOD._replace(row_type=RowType.FLOAT16), "rows of FLOAT16, not BFLOAT16"),
    ],
)
def test_a_fault_says_what_it_is(header: RequestHeader, found: str) -> None:
    assert fault(header) == found


def test_an_answer_that_fits_no_frame_is_not_computed() -> None:
    num_bytes = answer_to(GOOD._replace(wants_float32=True)).num_bytes
    asked = GOOD._replace(wants_float32=True)
    assert fault(asked, max_frame_bytes=num_bytes) is None
    assert fault(asked, max_frame_bytes=num_bytes - 1) is not None
    assert fault(GOOD, max_frame_bytes=num_bytes - 1) is None


def test_an_answer_is_of_the_type_that_is_asked_for_and_has_rows_only_where_it_is_ok() -> None:
    asked = GOOD._replace(wants_float32=True, has_checksum=True)
    assert answer_to(asked, compute_s=0.5, queue_s=0.25) == AnswerHeader(
        9, Status.OK, 2, 4, RowType.FLOAT32, 0.5, 0.25, has_checksum=True
    )
    assert answer_to(GOOD, Status.OTHER_MAP) == AnswerHeader(
        9, Status.OTHER_MAP, 0, 4, RowType.BFLOAT16, 0.0, 0.0
    )


def test_an_unreadable_request_is_answered_by_its_number() -> None:
    frame = bytearray(GOOD.num_bytes)
    write_request(memoryview(frame), GOOD)
    answer = answer_to_unreadable(memoryview(frame)[:64], LIMITS)
    assert answer == AnswerHeader(9, Status.BAD_REQUEST, 0, 4, RowType.BFLOAT16, 0.0, 0.0)
    write_answer(memoryview(bytearray(answer.num_bytes)), answer)
    assert answer_to_unreadable(memoryview(frame)[:63], LIMITS) is None

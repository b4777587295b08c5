"""The layout of requests and answers: what is written is read, and nothing else is."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.transport import messages
from experts.transport.errors import BadFrameError
from experts.transport.messages import (
    AnswerHeader,
    RequestHeader,
    RowType,
    Status,
    read_answer,
    read_request,
    seal,
    write_answer,
    write_request,
)

BIG = 2**32 - 1


def request_header(**changed: Any) -> RequestHeader:
    header = RequestHeader(
        sequence=7, layer=3, map_version=9, num_rows=2, num_pairs=3, hidden_size=576,
        row_type=RowType.BFLOAT16,
    )  # fmt: skip
    return header._replace(**changed)


def request(header: RequestHeader, seed: int = 0) -> memoryview:
    """With numbers of the seed."""
    rng = np.random.default_rng(seed)
    frame = memoryview(bytearray(rng.bytes(header.num_bytes)))
    views = write_request(frame, header)
    views.pair_slots[:] = rng.integers(0, 1000, header.num_pairs)
    views.pair_rows[:] = rng.integers(0, max(1, header.num_rows), header.num_pairs)
    views.rows[:] = rng.integers(0, 200, views.rows.shape)
    seal(frame)
    return frame


def answer_header(**changed: Any) -> AnswerHeader:
    header = AnswerHeader(
        sequence=7, status=Status.OK, num_pairs=3, hidden_size=576, row_type=RowType.BFLOAT16,
        compute_s=0.5, queue_s=0.25,
    )  # fmt: skip
    return header._replace(**changed)


def answer(header: AnswerHeader, seed: int = 0) -> memoryview:
    rng = np.random.default_rng(seed)
    frame = memoryview(bytearray(rng.bytes(header.num_bytes)))
    rows = write_answer(frame, header)
    rows[:] = rng.integers(0, 200, rows.shape)
    seal(frame)
    return frame


def test_the_worked_example_of_the_module() -> None:
    assert request_header().num_bytes == 2432
    assert answer_header().num_bytes == 3520
    frame = memoryview(bytearray(2432))
    views = write_request(frame, request_header())
    views.pair_slots[:] = [5, 6, 7]
    views.pair_rows[:] = [0, 1, 1]
    views.rows[1] = 300
    seal(frame)
    assert bytes(frame[64:88]) == struct.pack("<6I", 5, 6, 7, 0, 1, 1)
    assert bytes(frame[88:128]) == bytes(40)
    assert bytes(frame[128 + 1152 : 128 + 1154]) == struct.pack("<H", 300)
    header, found = read_request(frame)
    assert header == request_header()
    assert (found.pair_slots.tolist(), found.pair_rows.tolist()) == ([5, 6, 7], [0, 1, 1])
    assert found.rows.shape == (2, 576)


REQUESTS = st.builds(
    lambda row_type, **sizes: request_header(row_type=row_type, **sizes),
    st.sampled_from(RowType),
    sequence=st.sampled_from([0, 2**64 - 1]),
    map_version=st.sampled_from([0, 2**64 - 1]),
    layer=st.sampled_from([0, BIG]),
    num_rows=st.integers(1, 4),
    num_pairs=st.integers(0, 20),
    hidden_size=st.integers(1, 9),
    wants_float32=st.booleans(),
    has_checksum=st.booleans(),
)
ANSWERS = st.builds(
    lambda row_type, **sizes: answer_header(row_type=row_type, **sizes),
    st.sampled_from(RowType),
    num_pairs=st.integers(0, 5),
    hidden_size=st.integers(1, 9),
    compute_s=st.floats(0, 100),
    queue_s=st.floats(0, 100),
    has_checksum=st.booleans(),
)


@given(REQUESTS, st.integers(0, 3))
def test_a_request_is_read_as_it_was_written(header: RequestHeader, seed: int) -> None:
    frame = request(header, seed)
    found, views = read_request(frame.toreadonly())
    assert found == header
    assert views.rows.dtype == header.row_type.dtype
    assert views.rows.shape == (header.num_rows, header.hidden_size)
    rows_at = views.rows.ctypes.data - np.frombuffer(frame, np.uint8).ctypes.data
    assert rows_at % 64 == 0
    again = memoryview(bytearray(header.num_bytes))
    copied = write_request(again, header)
    for to, of in zip(copied, views, strict=True):
        to[:] = of
    seal(again)
    assert again == frame


@given(ANSWERS, st.integers(0, 3))
def test_an_answer_is_read_as_it_was_written(header: AnswerHeader, seed: int) -> None:
    frame = answer(header, seed)
    found, rows = read_answer(frame.toreadonly())
    assert found == header
    assert rows.dtype == header.row_type.dtype
    again = memoryview(bytearray(header.num_bytes))
    write_answer(again, header)[:] = rows
    seal(again)
    assert again == frame


@pytest.mark.parametrize("status", [status for status in Status if status != Status.OK])
def test_an_answer_that_says_why_has_no_rows(status: Status) -> None:
    header = answer_header(status=status, num_pairs=0)
    found, rows = read_answer(answer(header))
    assert (found, rows.shape, found.num_bytes) == (header, (0, 576), 64)


def test_the_answer_has_the_rows_that_the_request_asks_for() -> None:
    assert request_header().answer_type == RowType.BFLOAT16
    assert request_header(wants_float32=True).answer_type == RowType.FLOAT32


@pytest.mark.parametrize(
    ("place", "number", "wrong"),
    [
        (0, struct.pack("<H", 2), "format version 2, not 1"),
        (2, b"\2", "kind 2, not 1"),
        (2, b"\0", "kind 0, not 1"),
        (3, b"\4", "an unknown flag"),
        (4, struct.pack("<H", 9), "the row type 9"),
        (6, struct.pack("<H", 1), "an unknown flag"),
        (28, struct.pack("<I", 3), "the header says"),
        (28, struct.pack("<I", BIG), "the header says"),
        (32, struct.pack("<I", 0), "the header says"),
        (32, struct.pack("<I", BIG), "the header says"),
        (36, struct.pack("<I", 0), "rows of no numbers"),
        (36, struct.pack("<I", BIG), "the header says"),
        (56, struct.pack("<Q", 1), "the checksum is that of other bytes"),
        (76, struct.pack("<I", 2), "a pair has row 2 of 2"),
        (84, struct.pack("<I", BIG), f"a pair has row {BIG} of 2"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    place: int, number: bytes, wrong: str
) -> None:
    frame = request(request_header())
    frame[place : place + len(number)] = number
    with pytest.raises(BadFrameError, match=wrong):
        read_request(frame)


@pytest.mark.parametrize(
    ("place", "number", "wrong"),
    [
        (0, struct.pack("<H", 0), "format version 0, not 1"),
        (2, b"\1", "kind 1, not 2"),
        (3, b"\2", "an unknown flag"),
        (4, struct.pack("<H", 0), "the row type 0"),
        (6, struct.pack("<H", 77), "the status 77"),
        (6, struct.pack("<H", Status.FAILED), "rows of a request that failed"),
        (32, struct.pack("<I", 2), "the header says"),
        (32, struct.pack("<I", BIG), "the header says"),
        (36, struct.pack("<I", 0), "rows of no numbers"),
        (36, struct.pack("<I", BIG), "the header says"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    place: int, number: bytes, wrong: str
) -> None:
    frame = answer(answer_header())
    frame[place : place + len(number)] = number
    with pytest.raises(BadFrameError, match=wrong):
        read_answer(frame)


@given(REQUESTS, st.data())
def test_a_checksum_finds_every_change(header: RequestHeader, data: st.DataObject) -> None:
    header = header._replace(has_checksum=True)
    frame = request(header)
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    # Where the flag itself is gone, the checksum that is left gives it away.
    with pytest.raises(BadFrameError):
        read_request(frame)


def test_a_checksum_finds_each_bit_of_a_frame_whose_rows_are_one_word() -> None:
    sizes = {"num_rows": 1, "num_pairs": 0, "hidden_size": 1}
    header = request_header(row_type=RowType.FLOAT32, has_checksum=True, **sizes)
    whole = request(header)
    for bit in range(8 * len(whole)):
        frame = memoryview(bytearray(whole))
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrameError):
            read_request(frame)


def test_words_that_change_places_change_the_checksum() -> None:
    frame = request(request_header(has_checksum=True))
    frame[128:136], frame[136:144] = bytes(frame[136:144]), bytes(frame[128:136])
    with pytest.raises(BadFrameError, match="checksum"):
        read_request(frame)


@given(st.integers(0, 200))
def test_a_frame_that_is_cut_off_is_refused(num_bytes: int) -> None:
    frame = request(request_header(num_rows=1, hidden_size=4))
    cut = frame[: min(num_bytes, len(frame) - 1)]
    with pytest.raises(BadFrameError):
        read_request(cut)
    with pytest.raises(BadFrameError):
        read_answer(cut)


NUMBERS = st.one_of(st.integers(0, 3), st.sampled_from([64, 2**31, BIG]))


@given(st.sampled_from([1, 2]), st.lists(NUMBERS, min_size=14, max_size=40))
def test_whatever_comes_is_an_error_or_within_the_frame(kind: int, words: list[int]) -> None:
    frame = memoryview(bytearray(struct.pack(f"<{len(words)}I", *words)))
    frame[:3] = struct.pack("<HB", messages.FORMAT_VERSION, kind)
    try:
        if kind == 1:
            header, views = read_request(frame)
            assert sum(view.nbytes for view in views) + 64 <= len(frame)
            assert (views.pair_rows < header.num_rows).all()
        else:
            assert read_answer(frame)[1].nbytes + 64 <= len(frame)
    except BadFrameError:
        pass

"""What engines and draft replicas say: what is written is read, and nothing else is."""

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.drafts.messages import (
    MAX_ROWS,
    Answer,
    AnswerRow,
    Tell,
    TellRow,
    answer_bytes,
    read_answer,
    read_tell,
    tell_bytes,
)
from experts.transport.errors import BadFrameError
from router.speculation.confidence import NUM_KINDS
from router.speculation.types import MAX_TOKENS

BIG = 2**31 - 1
NUMBERS = st.sampled_from([0, 1, BIG])
STEPS = st.sampled_from([0, 7, 2**32 - 1])
RATES = st.lists(st.floats(0, 1, width=32), max_size=3)
TOKEN_IDS = st.lists(NUMBERS, max_size=4)
TELL_ROWS = st.builds(
    TellRow,
    sequence=NUMBERS,
    num_before=NUMBERS,
    is_fresh=st.booleans(),
    max_tokens=st.integers(0, MAX_TOKENS),
    token_ids=TOKEN_IDS.map(lambda ids: np.array(ids, np.int32)),
)
TELLS = st.builds(
    Tell,
    step=STEPS,
    rates=RATES.map(lambda rates: np.array(rates, np.float32)),
    least=st.floats(0, 1, width=32),
    rows=st.lists(TELL_ROWS, max_size=3, unique_by=lambda row: row.sequence),
    patience_s=st.floats(0, allow_nan=False),
)
DRAFTS = st.lists(st.tuples(NUMBERS, st.integers(0, NUM_KINDS - 1)), max_size=5).map(
    lambda pairs: ([token for token, _ in pairs], [kind for _, kind in pairs])
)
ANSWER_ROWS = st.builds(
    lambda is_known, draft: AnswerRow(is_known, *draft), st.booleans(), DRAFTS
)
ANSWERS = st.builds(
    Answer,
    step=STEPS,
    token_s=st.floats(0, 1, width=32),
    rows=st.lists(ANSWER_ROWS, max_size=3),
)
READERS: list[Callable[[memoryview], Any]] = [read_tell, read_answer]

TELL = Tell(
    7,
    np.array([0.5, 0.25], np.float32),
    0.125,
    [
        TellRow(1, 10, False, 8, np.array([4, 5], np.int32)),
        TellRow(2, 0, True, 3, np.array([], np.int32)),
    ],
)
ANSWER = Answer(7, 0.5, [AnswerRow(True, [4, 5], [0, 8]), AnswerRow(False, [], [])])


def plain(tell: Tell) -> tuple[Any, ...]:
    """With lists for arrays, to be compared."""
    rows = [row._replace(token_ids=row.token_ids.tolist()) for row in tell.rows]
    return tell.step, tell.rates.tolist(), tell.least, rows, tell.patience_s


def tell_frame() -> bytearray:
    return bytearray(tell_bytes(TELL))


@example(Tell(0, np.array([], np.float32), 0.0, []))
@given(TELLS)
def test_a_tell_is_read_as_it_was_written(tell: Tell) -> None:
    assert plain(read_tell(memoryview(tell_bytes(tell)))) == plain(tell)


@example(Answer(0, 0.0, []))
@example(Answer(1, 0.0, [AnswerRow(True, [BIG] * MAX_TOKENS, [8] * MAX_TOKENS)]))
@given(ANSWERS)
def test_an_answer_is_read_as_it_was_written(answer: Answer) -> None:
    assert read_answer(memoryview(answer_bytes(answer))) == answer


def test_what_is_read_stays_when_the_frame_is_written_over() -> None:
    frame = tell_frame()
    found = read_tell(memoryview(frame))
    frame[:] = bytes(len(frame))
    assert plain(found) == plain(TELL)


@given(TELLS, st.data())
def test_a_tell_that_is_cut_off_or_goes_on_is_refused(tell: Tell, data: st.DataObject) -> None:
    frame = tell_bytes(tell)
    for wrong in (frame[: data.draw(st.integers(0, len(frame) - 1))], frame + b"\0"):
        with pytest.raises(BadFrameError):
            read_tell(memoryview(wrong))


@given(ANSWERS, st.data())
def test_an_answer_that_is_cut_off_or_goes_on_is_refused(
    answer: Answer, data: st.DataObject
) -> None:
    frame = answer_bytes(answer)
    for wrong in (frame[: data.draw(st.integers(0, len(frame) - 1))], frame + b"\0"):
        with pytest.raises(BadFrameError):
            read_answer(memoryview(wrong))


@given(st.sampled_from(READERS), st.data())
def test_whatever_comes_is_read_or_refused(
    read: Callable[[memoryview], Any], data: st.DataObject
) -> None:
    frame = bytearray(tell_bytes(TELL) if read is read_tell else answer_bytes(ANSWER))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame) - 4))
        frame[at : at + 4] = data.draw(
            st.sampled_from([0, 1, 2, -1, BIG, -BIG]).map(lambda n: struct.pack("<i", n))
        )
    with contextlib.suppress(BadFrameError):
        read(memoryview(frame))


ROWS_AT = 24 + 2 * 4  # after the head and two rates


@pytest.mark.parametrize(
    ("place", "number", "wrong"),
    [
        (0, b"\2", "kind 2, version 1"),
        (1, b"\2", "kind 1, version 2"),
        (2, struct.pack("<H", MAX_ROWS + 1), f"a frame of {MAX_ROWS + 1} rows"),
        (2, struct.pack("<H", 3), "ends too early"),
        (2, struct.pack("<H", 1), "more in it than it says"),
        (12, struct.pack("<d", -1.0), "without patience"),
        (20, struct.pack("<I", 2**32 - 1), "ends too early"),
        (ROWS_AT, struct.pack("<i", -1), "out of range"),
        (ROWS_AT, struct.pack("<i", 2), "names a sequence twice"),
        (ROWS_AT + 4, struct.pack("<i", -1), "out of range"),
        (ROWS_AT + 12, struct.pack("<i", MAX_TOKENS + 1), "out of range"),
        (ROWS_AT + 16, struct.pack("<i", BIG), "ends too early"),
        (ROWS_AT + 40, struct.pack("<i", -1), "out of range"),
    ],
)
def test_a_tell_that_makes_no_sense_is_refused(place: int, number: bytes, wrong: str) -> None:
    frame = tell_frame()
    frame[place : place + len(number)] = number
    with pytest.raises(BadFrameError, match=wrong):
        read_tell(memoryview(frame))


@pytest.mark.parametrize(
    ("place", "number", "wrong"),
    [
        (0, b"\1", "kind 1, version 1"),
        (1, b"\0", "kind 2, version 0"),
        (2, struct.pack("<H", 2**16 - 1), f"a frame of {2**16 - 1} rows"),
        (16, struct.pack("<i", MAX_TOKENS + 1), "out of range"),
        (16, struct.pack("<i", -1), "out of range"),
        (16, struct.pack("<i", 3), "ends too early"),
        (16, struct.pack("<i", 1), "more in it than it says"),
        (-1, b"\x09", "a kind that there is not"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    place: int, number: bytes, wrong: str
) -> None:
    frame = bytearray(answer_bytes(ANSWER))
    at = place % len(frame)
    frame[at : at + len(number)] = number
    with pytest.raises(BadFrameError, match=wrong):
        read_answer(memoryview(frame))

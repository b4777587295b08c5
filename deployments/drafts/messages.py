"""What engines and draft replicas say to each other: one frame each way for each step.

    tell     head | rates | rows | token ids           engine -> replica
    answer   head | rows | token ids | kinds           replica -> engine

All numbers are little-endian. A tell says of each sequence how many tokens came before those
that it brings; a replica that knows another number answers so, and is told anew from some
token on. An answer repeats the step's number, and its rows are in the order of the tell's.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experts.transport.errors import BadFrameError
from router.speculation.confidence import NUM_KINDS
from router.speculation.types import MAX_TOKENS

VERSION = 1
_TELL, _ANSWER = 1, 2
_TELL_HEAD = struct.Struct("<BBHIfdI")
_ANSWER_HEAD = struct.Struct("<BBHIf")
_ROW_NUMBERS, _ANSWER_NUMBERS = 5, 2
MAX_ROWS = 4096


class TellRow(NamedTuple):
    """One sequence."""

    sequence: int
    num_before: int
    """Tokens of it that came before these."""
    is_fresh: bool
    """What the replica knows of it is void; it does not get the tokens before."""
    max_tokens: int
    """Of the draft."""
    token_ids: NDArray[np.int32]  # [num_new]


class Tell(NamedTuple):
    """What an engine says after a step."""

    step: int
    rates: NDArray[np.float32]  # [num_kinds]
    least: float
    rows: Sequence[TellRow]
    patience_s: float = math.inf
    """Wanted within it, as far as drafts have come by then."""


class AnswerRow(NamedTuple):
    """What is drafted of one sequence."""

    is_known: bool
    """Else what was told did not go on from what was known: tell it anew."""
    token_ids: Sequence[int]
    kinds: Sequence[int]


class Answer(NamedTuple):
    """Drafts for the rows of one tell."""

    step: int
    token_s: float
    """What one token more of all drafts takes."""
    rows: Sequence[AnswerRow]


def rows_that_fit(
    rows: Iterable[TellRow], num_kinds: int, max_frame_bytes: int
) -> list[TellRow]:
    """The first of them, as many as one tell can have."""
    room = max_frame_bytes - _TELL_HEAD.size - 4 * num_kinds
    found = []
    for row in islice(rows, MAX_ROWS):
        room -= 4 * (_ROW_NUMBERS + len(row.token_ids))
        if room < 0:
            break
        found.append(row)
    return found


def tell_bytes(tell: Tell) -> bytes:
    """As a frame."""
    rows = np.array(
        [
            (row.sequence, row.num_before, row.is_fresh, row.max_tokens, len(row.token_ids))
            for row in tell.rows
        ],
        "<i4",
    )
    num_kinds = len(tell.rates)
    head = _TELL_HEAD.pack(
        _TELL, VERSION, len(tell.rows), tell.step, tell.least, tell.patience_s, num_kinds
    )
    token_ids = [row.token_ids.astype("<i4", copy=False).tobytes() for row in tell.rows]
    return b"".join((head, tell.rates.astype("<f4").tobytes(), rows.tobytes(), *token_ids))


def read_tell(frame: memoryview) -> Tell:
    """Raises BadFrameError. What it gives is a copy."""
    head = _head(frame, _TELL_HEAD, _TELL)
    _, _, num_rows, step, least, patience_s, num_kinds = head
    reader = _Reader(frame, _TELL_HEAD.size)
    rates = reader.take("<f4", num_kinds)
    rows = reader.take("<i4", num_rows * _ROW_NUMBERS).reshape(-1, _ROW_NUMBERS)
    if (rows < 0).any() or (rows[:, 3] > MAX_TOKENS).any():
        raise BadFrameError("a tell with numbers out of range")
    if len(np.unique(rows[:, 0])) < num_rows:
        raise BadFrameError("a tell that names a sequence twice")
    if not patience_s >= 0:
        raise BadFrameError("a tell of an engine without patience")
    found = [
        TellRow(sequence, num_before, bool(is_fresh), max_tokens, reader.take("<i4", num_new))
        for sequence, num_before, is_fresh, max_tokens, num_new in rows.tolist()
    ]
    reader.end()
    if any((row.token_ids < 0).any() for row in found):
        raise BadFrameError("a tell with tokens out of range")
    return Tell(step, rates, least, found, patience_s)


def answer_bytes(answer: Answer) -> bytes:
    """As a frame."""
    rows = np.array([(row.is_known, len(row.token_ids)) for row in answer.rows], "<i4")
    token_ids = np.array([t for row in answer.rows for t in row.token_ids], "<i4")
    kinds = bytes(kind for row in answer.rows for kind in row.kinds)
    head = _ANSWER_HEAD.pack(_ANSWER, VERSION, len(rows), answer.step, answer.token_s)
    return b"".join((head, rows.tobytes(), token_ids.tobytes(), kinds))


def read_answer(frame: memoryview) -> Answer:
    """Raises BadFrameError. What it gives is a copy."""
    _, _, num_rows, step, token_s = _head(frame, _ANSWER_HEAD, _ANSWER)
    reader = _Reader(frame, _ANSWER_HEAD.size)
    rows = reader.take("<i4", num_rows * _ANSWER_NUMBERS).reshape(-1, _ANSWER_NUMBERS)
    if (rows < 0).any() or (rows[:, 1] > MAX_TOKENS).any():
        raise BadFrameError("an answer with numbers out of range")
    num_tokens = int(rows[:, 1].sum())
    token_ids = reader.take("<i4", num_tokens).tolist()
    kinds = reader.take("u1", num_tokens)
    reader.end()
    if (kinds >= NUM_KINDS).any():
        raise BadFrameError("an answer with a kind that there is not")
    found, start = [], 0
    for is_known, length in rows.tolist():
        end = start + length
        found.append(AnswerRow(bool(is_known), token_ids[start:end], kinds[start:end].tolist()))
        start = end
    return Answer(step, token_s, found)


class _Reader:
    """Takes arrays from a frame, one after the other."""

    def __init__(self, frame: memoryview, start: int) -> None:
        self._frame = frame
        self._at = start

    def take(self, kind: str, count: int) -> NDArray[Any]:
        size = np.dtype(kind).itemsize * count
        if self._at + size > len(self._frame):
            raise BadFrameError("a frame that ends too early")
        found = np.frombuffer(self._frame, kind, count, self._at).copy()
        self._at += size
        return found

    def end(self) -> None:
        if self._at != len(self._frame):
            raise BadFrameError("a frame with more in it than it says")


def _head(frame: memoryview, head: struct.Struct, kind: int) -> tuple[int, ...]:
    if len(frame) < head.size:
        raise BadFrameError("a frame shorter than its head")
    found: tuple[int, ...] = head.unpack_from(frame)
    if found[0] != kind or found[1] != VERSION:
        raise BadFrameError(f"a frame of kind {found[0]}, version {found[1]}")
    if found[2] > MAX_ROWS:
        raise BadFrameError(f"a frame of {found[2]} rows")
    return found

"""The words of requests and answers, compiled: what `messages` does for each frame.

Between two frames a process computes with weights that push everything else out of the
processor's caches. What is then spread over many small calls of Python takes several times as
long as in a loop; these functions are few, and each does what belongs together.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled, inlined

HEADER_BYTES = 64
NUM_FIELDS = 12
"""What is wrong, if something is; format version, kind, flags, row type, the number at byte 6,
the sequence number, the number of 64 bits at 16 and those of 32 bits from 24 on."""

GOOD, TOO_SHORT, OTHER_VERSION, OTHER_KIND, OTHER_ROWS, NO_NUMBERS, OTHER_SIZE, NO_SUCH_ROW = (
    range(8)
)
"""What `parse_request` and `parse_answer` say of a frame, the first that applies."""

Bytes = NDArray[np.uint8]
Fields = tuple[np.uint64, ...]
Number = int | np.int64

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_INTS = types.Array(types.int32, 1, "C", readonly=True)
_FIELDS = types.UniTuple(types.uint64, NUM_FIELDS)


@inlined
def _fields(frame: Bytes, kind: int, version: int) -> Fields:
    """With the fault of the beginning; all 0 where the frame is too short."""
    zero = np.uint64(0)
    fault = GOOD
    if len(frame) < HEADER_BYTES:
        short = np.uint64(TOO_SHORT)
        return (short, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    halves = frame[:HEADER_BYTES].view(np.uint16)
    words = frame[:HEADER_BYTES].view(np.uint32)
    longs = frame[:HEADER_BYTES].view(np.uint64)
    if halves[0] != version:
        fault = OTHER_VERSION
    elif frame[2] != kind:
        fault = OTHER_KIND
    elif not 1 <= halves[2] <= 3:
        fault = OTHER_ROWS
    elif words[9] == 0:
        fault = NO_NUMBERS
    return (
        np.uint64(fault),
        np.uint64(halves[0]),
        np.uint64(frame[2]),
        np.uint64(frame[3]),
        np.uint64(halves[2]),
        np.uint64(halves[3]),
        longs[1],
        longs[2],
        np.uint64(words[6]),
        np.uint64(words[7]),
        np.uint64(words[8]),
        np.uint64(words[9]),
    )


@inlined
def _is_size(
    frame: Bytes, rows_at: Number, num_rows: Number, hidden_size: Number, item: int
) -> bool:
    """Whether the frame ends where rows do that begin there. No product overflows."""
    num_bytes = len(frame)
    if num_rows > 0 and hidden_size > num_bytes // num_rows:
        return False
    end = rows_at + num_rows * hidden_size * item
    return (end + 7) // 8 * 8 == num_bytes


@compiled(_FIELDS(_BYTES, types.int64))
def parse_request(frame: Bytes, version: int) -> Fields:
    """The fault and the fields of a request's header, after a look at what all requests have
    in common."""
    fields = _fields(frame, 1, version)
    if fields[0] != GOOD:
        return fields
    num_rows, num_pairs = np.int64(fields[9]), np.int64(fields[10])
    item = 4 if fields[4] == 1 else 2
    rows_at = (HEADER_BYTES + 8 * num_pairs + 63) // 64 * 64
    if not _is_size(frame, rows_at, num_rows, np.int64(fields[11]), item):
        return (np.uint64(OTHER_SIZE), *fields[1:])
    pair_rows = frame[HEADER_BYTES + 4 * num_pairs : HEADER_BYTES + 8 * num_pairs]
    for row in pair_rows.view(np.uint32):
        if row >= num_rows:
            return (np.uint64(NO_SUCH_ROW), *fields[1:])
    return fields


@compiled(_FIELDS(_BYTES, types.int64))
def parse_answer(frame: Bytes, version: int) -> Fields:
    """Likewise, of an answer."""
    fields = _fields(frame, 2, version)
    if fields[0] != GOOD:
        return fields
    item = 4 if fields[4] == 1 else 2
    num_pairs, hidden_size = np.int64(fields[10]), np.int64(fields[11])
    if not _is_size(frame, HEADER_BYTES, num_pairs, hidden_size, item):
        return (np.uint64(OTHER_SIZE), *fields[1:])
    return fields


@compiled(
    types.void(
        types.uint8[::1],
        *(_INTS, _INTS, _INTS),
        types.Array(types.uint16, 2, "C", readonly=True),
    )
)
def fill_request(
    frame: Bytes,
    pair_slots: NDArray[np.int32],
    pair_rows: NDArray[np.int32],
    tokens: NDArray[np.int32],
    rows: NDArray[np.uint16],
) -> None:
    """Write all that comes after the header: the pairs, those of the rows that `tokens`
    names, and zeros between them and after them.

    Shapes: [num_pairs] twice, [num_rows], [num_tokens, 16 bits of a row].
    """
    num_pairs, width = len(pair_slots), rows.shape[1]
    at = HEADER_BYTES + 8 * num_pairs
    words = frame[HEADER_BYTES:at].view(np.int32)
    for pair in range(num_pairs):
        words[pair] = pair_slots[pair]
        words[num_pairs + pair] = pair_rows[pair]
    rows_at = (at + 63) // 64 * 64
    frame[at:rows_at] = 0
    halves = frame[rows_at:].view(np.uint16)
    at = 0
    for token in tokens:
        for i in range(width):
            halves[at + i] = rows[token, i]
        at += width
    halves[at:] = 0

"""What frames hold: a request of an engine for one layer, and a host's answer.

All numbers are little-endian. Both begin with 64 bytes:

| bytes | request                         | answer                            |
|-------|---------------------------------|-----------------------------------|
| 0     | u16 `FORMAT_VERSION`            | the same                          |
| 2     | u8 kind: 1                      | u8 kind: 2                        |
| 3     | u8 flags                        | u8 flags                          |
| 4     | u16 row type                    | u16 row type                      |
| 6     | u16 0                           | u16 status                        |
| 8     | u64 sequence number             | u64 that of the request           |
| 16    | u64 version of the expert map   | f64 compute_s                     |
| 24    | u32 layer                       | f64 queue_s                       |
| 28    | u32 rows                        |                                   |
| 32    | u32 pairs                       | u32 pairs                         |
| 36    | u32 hidden size                 | u32 hidden size                   |
| 40    | 0                               | 0                                 |
| 56    | u64 checksum, 0 without         | u64 checksum, 0 without           |

A request goes on with its *pairs*: for each its slot (u32 [num_pairs]) and then for each
its row (u32 [num_pairs]); and, from the next multiple of 64 on, the rows [num_rows,
hidden_size]: a token is sent once, however many of the host's experts it has. An answer
goes on with a row for each pair [num_pairs, hidden_size], in the order of the pairs. The
frame ends after the rows, at the next multiple of 8. bfloat16 is carried as uint16.

Worked example: 2 rows of 576 bfloat16, 3 pairs. The pairs take [64, 88), the rows [128,
2432), which is all of the frame; the answer is 64 + 3 * 1152 = 3520 bytes.

`write_*` lays out a frame in place and gives the views to fill; `seal` computes the
checksum of a filled frame, where it has one; `read_*` checks everything that can be
checked without the expert map, and gives views in place. `put_request` and
`read_request_header` do without views, for who writes and reads thousands a second.
"""

import enum
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experts.transport import message_words as words
from experts.transport.checksum import checksum
from experts.transport.errors import BadFrameError
from experts.transport.message_words import HEADER_BYTES

FORMAT_VERSION = 1

_REQUEST = struct.Struct("<HBBHHQQIIII16xQ")
_ANSWER = struct.Struct("<HBBHHQddII16xQ")
_TIMES, _TIMES_AT = struct.Struct("<dd"), 16
_SUM, _SUM_AT = struct.Struct("<Q"), 56
_KIND_REQUEST, _KIND_ANSWER = 1, 2
_HAS_CHECKSUM, _WANTS_FLOAT32 = 1, 2
_MAX_U32 = 2**32 - 1


class RowType(enum.IntEnum):
    """The numbers of a row."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """What numpy has them in."""
        return _DTYPES[self]


_DTYPES: dict[int, np.dtype[Any]] = {
    RowType.FLOAT32: np.dtype("<f4"),
    RowType.BFLOAT16: np.dtype("<u2"),
    RowType.FLOAT16: np.dtype("<f2"),
}
_ROW_TYPES = {int(row_type): row_type for row_type in RowType}
_NO_HEADER = frozenset(
    {
        words.TOO_SHORT,
        words.OTHER_VERSION,
        words.OTHER_KIND,
        words.OTHER_ROWS,
        words.NO_NUMBERS,
    }
)


class Status(enum.IntEnum):
    """How a request ended. Only `OK` has rows."""

    OK = 0
    OTHER_MAP = 1
    """A slot does not hold what the request's map says: ask again with another map."""
    BAD_REQUEST = 2
    OVERLOADED = 3
    FAILED = 4


_STATUSES = {int(status): status for status in Status}


class RequestHeader(NamedTuple):
    """What a request says beside its numbers."""

    sequence: int
    layer: int
    map_version: int
    num_rows: int
    num_pairs: int
    hidden_size: int
    row_type: RowType
    wants_float32: bool = False
    """The answer's rows are to be float32, whatever the request's are."""
    has_checksum: bool = False

    @property
    def answer_type(self) -> RowType:
        """The row type of the answer."""
        return RowType.FLOAT32 if self.wants_float32 else self.row_type

    @property
    def rows_bytes(self) -> int:
        """Of all rows."""
        return self.num_rows * self.hidden_size * self.row_type.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Of the frame."""
        return _round_up(_rows_at(self.num_pairs) + self.rows_bytes, 8)


class RequestViews(NamedTuple):
    """The arrays of a request, in place."""

    pair_slots: NDArray[np.uint32]
    """Counted from the host's first slot. Shape: [num_pairs]."""
    pair_rows: NDArray[np.uint32]
    """Shape: [num_pairs]; each below num_rows."""
    rows: NDArray[Any]
    """Shape: [num_rows, hidden_size]."""


class AnswerHeader(NamedTuple):
    """What an answer says beside its rows."""

    sequence: int
    status: Status
    num_pairs: int
    """0 unless the status is `OK`."""
    hidden_size: int
    row_type: RowType
    compute_s: float
    """From the request's turn to the last row."""
    queue_s: float
    """From its arrival to its turn."""
    has_checksum: bool = False

    @property
    def rows_bytes(self) -> int:
        """Of all rows."""
        return self.num_pairs * self.hidden_size * self.row_type.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Of the frame."""
        return answer_bytes(self.num_pairs, self.hidden_size, self.row_type)


def answer_bytes(num_pairs: int, hidden_size: int, row_type: RowType) -> int:
    """Of an answer's frame with so many rows."""
    return _round_up(HEADER_BYTES + num_pairs * hidden_size * row_type.dtype.itemsize, 8)


def write_request(frame: memoryview, header: RequestHeader) -> RequestViews:
    """Lay a request out in a frame of `header.num_bytes`; fill the views, then `seal`."""
    _write_request_header(frame, header)
    _clear(frame, HEADER_BYTES + 8 * header.num_pairs, _rows_at(header.num_pairs))
    _clear(frame, _rows_at(header.num_pairs) + header.rows_bytes, header.num_bytes)
    return _request_views(frame, header)


def put_request(
    frame: memoryview,
    header: RequestHeader,
    pairs: tuple[NDArray[np.int32], NDArray[np.int32]],
    tokens: NDArray[np.int32],
    rows: NDArray[Any],
) -> None:
    """Write a request into a frame of `header.num_bytes`, and `seal` it.

    `pairs` are their slots and rows; the request's rows are those of `rows` that `tokens`
    names. Shapes: [num_pairs] twice, [num_rows], [num_tokens, hidden_size].
    """
    _write_request_header(frame, header)
    room = np.frombuffer(frame, np.uint8)
    words.fill_request(room, *pairs, tokens, rows.view(np.uint16))
    seal(frame)


def read_request(frame: memoryview) -> tuple[RequestHeader, RequestViews]:
    """A request in place, valid as long as the frame. Slots are the host's to check.

    Raises BadFrameError, and looks at no byte beyond the frame.
    """
    header = read_request_header(frame)
    return header, _request_views(frame, header)


def read_request_header(frame: memoryview) -> RequestHeader:
    """See `read_request`; the rows of the pairs are checked as well."""
    found: Any = words.parse_request(np.frombuffer(frame, np.uint8), FORMAT_VERSION)
    fault, _, _, flags, row_type, zero, sequence, version, layer, *sizes = found
    num_rows, num_pairs, hidden_size = sizes
    if fault in _NO_HEADER:
        raise BadFrameError(_wrong(frame, found, _KIND_REQUEST))
    _check(zero == 0 and flags <= _HAS_CHECKSUM | _WANTS_FLOAT32, "an unknown flag")
    header = RequestHeader(
        sequence,
        layer,
        version,
        num_rows,
        num_pairs,
        hidden_size,
        _ROW_TYPES[row_type],
        bool(flags & _WANTS_FLOAT32),
        bool(flags & _HAS_CHECKSUM),
    )
    if fault == words.OTHER_SIZE:
        raise BadFrameError(_wrong_size(frame, header))
    _check_sum(frame, header.has_checksum)
    if fault == words.NO_SUCH_ROW:
        greatest = _request_views(frame, header).pair_rows.max()
        raise BadFrameError(f"a pair has row {greatest} of {header.num_rows}")
    return header


def request_pairs(
    frame: memoryview, header: RequestHeader
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Slots and rows of a request that was read, in place; slots of 2^31 and more are below
    0. Shapes: [num_pairs]."""
    num_pairs = header.num_pairs
    both = np.frombuffer(frame, np.int32, 2 * num_pairs, HEADER_BYTES)
    return both[:num_pairs], both[num_pairs:]


def request_rows(frame: memoryview, header: RequestHeader) -> NDArray[Any]:
    """Rows of a request that was read, in place. Shape: [num_rows, hidden_size]."""
    return _rows(frame, _rows_at(header.num_pairs), header.num_rows, header)


def write_answer(frame: memoryview, header: AnswerHeader) -> NDArray[Any]:
    """Lay an answer out in a frame of `header.num_bytes`; fill the rows, then `seal`.

    Shape: [num_pairs, hidden_size].
    """
    assert len(frame) == header.num_bytes
    assert header.status == Status.OK or header.num_pairs == 0
    flags = header.has_checksum * _HAS_CHECKSUM
    start = (FORMAT_VERSION, _KIND_ANSWER, flags, header.row_type, header.status)
    times = (header.compute_s, header.queue_s)
    sizes = (header.num_pairs, header.hidden_size)
    _ANSWER.pack_into(frame, 0, *start, header.sequence, *times, *sizes, 0)
    _clear(frame, HEADER_BYTES + header.rows_bytes, header.num_bytes)
    return _rows(frame, HEADER_BYTES, header.num_pairs, header)


def read_answer(frame: memoryview) -> tuple[AnswerHeader, NDArray[Any]]:
    """An answer and its rows in place. Shape: [num_pairs, hidden_size].

    Raises BadFrameError, and looks at no byte beyond the frame.
    """
    found: Any = words.parse_answer(np.frombuffer(frame, np.uint8), FORMAT_VERSION)
    fault, _, _, flags, row_type, status, sequence, *_, num_pairs, hidden_size = found
    if fault in _NO_HEADER:
        raise BadFrameError(_wrong(frame, found, _KIND_ANSWER))
    _check(flags <= _HAS_CHECKSUM, "an unknown flag")
    _check(status in _STATUSES, f"the status {status}")
    _check(status == Status.OK or num_pairs == 0, "rows of a request that failed")
    compute_s, queue_s = _TIMES.unpack_from(frame, _TIMES_AT)
    header = AnswerHeader(
        sequence,
        _STATUSES[status],
        num_pairs,
        hidden_size,
        _ROW_TYPES[row_type],
        compute_s,
        queue_s,
        bool(flags & _HAS_CHECKSUM),
    )
    if fault == words.OTHER_SIZE:
        raise BadFrameError(_wrong_size(frame, header))
    _check_sum(frame, header.has_checksum)
    return header, _rows(frame, HEADER_BYTES, num_pairs, header)


def seal(frame: memoryview) -> None:
    """The last step of writing: the checksum, where the header asks for one."""
    if frame[3] & _HAS_CHECKSUM:
        _SUM.pack_into(frame, _SUM_AT, _checksum(frame))


def _write_request_header(frame: memoryview, header: RequestHeader) -> None:
    assert len(frame) == header.num_bytes
    flags = header.has_checksum * _HAS_CHECKSUM | header.wants_float32 * _WANTS_FLOAT32
    start = (FORMAT_VERSION, _KIND_REQUEST, flags, header.row_type, 0, header.sequence)
    sizes = (header.layer, header.num_rows, header.num_pairs, header.hidden_size)
    _REQUEST.pack_into(frame, 0, *start, header.map_version, *sizes, 0)


def _wrong(frame: memoryview, fields: tuple[int, ...], kind: int) -> str:
    """What is wrong with a frame that has no header that makes sense."""
    fault, version, found, _, row_type, *_ = fields
    wrong = {
        words.TOO_SHORT: f"{len(frame)} bytes",
        words.OTHER_VERSION: f"format version {version}, not {FORMAT_VERSION}",
        words.OTHER_KIND: f"kind {found}, not {kind}",
        words.OTHER_ROWS: f"the row type {row_type}",
        words.NO_NUMBERS: "rows of no numbers",
    }
    return f"no such frame: {wrong[fault]}"


def _wrong_size(frame: memoryview, header: RequestHeader | AnswerHeader) -> str:
    return f"{len(frame)} bytes, where the header says {header.num_bytes}"


def _check_sum(frame: memoryview, has_checksum: bool) -> None:
    (found,) = _SUM.unpack_from(frame, _SUM_AT)
    if found != (_checksum(frame) if has_checksum else 0):
        raise BadFrameError("the checksum is that of other bytes")


def _check(is_so: bool, wrong: str) -> None:
    if not is_so:
        raise BadFrameError(f"no such frame: {wrong}")


def _clear(frame: memoryview, start: int, end: int) -> None:
    """A gap, which would else hold what was in that memory before."""
    if start < end:
        frame[start:end] = bytes(end - start)


def _checksum(frame: memoryview) -> int:
    return checksum(frame[:_SUM_AT], frame[HEADER_BYTES:])


def _request_views(frame: memoryview, header: RequestHeader) -> RequestViews:
    num_pairs = header.num_pairs
    slots = np.frombuffer(frame, np.uint32, num_pairs, HEADER_BYTES)
    pair_rows = np.frombuffer(frame, np.uint32, num_pairs, HEADER_BYTES + 4 * num_pairs)
    return RequestViews(slots, pair_rows, request_rows(frame, header))


def _rows(
    frame: memoryview, start: int, num_rows: int, header: RequestHeader | AnswerHeader
) -> NDArray[Any]:
    count = num_rows * header.hidden_size
    flat = np.frombuffer(frame, header.row_type.dtype, count, start)
    return flat.reshape(num_rows, header.hidden_size)


def _rows_at(num_pairs: int) -> int:
    return _round_up(HEADER_BYTES + 8 * num_pairs, HEADER_BYTES)


def _round_up(num_bytes: int, unit: int) -> int:
    return -(-num_bytes // unit) * unit

"""Frames that are no work: what engines, hosts and the director tell each other about slots.

An engine keeps one link to each host for these beside those for its requests, and so does
the director. All numbers are little-endian; all frames begin with 8 bytes: u16
`FORMAT_VERSION` of `messages`, u8 kind, and 5 of 0.

| kind        | from, to         | from byte 8 on                                      |
|-------------|------------------|-----------------------------------------------------|
| 3 `FOLLOW`  | engine, host     |                                                     |
| 4 `TABLE`   | host, engine     | u64 version, u32 layers, u32 slots, i16 [layers,    |
|             |                  | slots] (what they hold)                             |
| 5 `DONE`    | engine, host     | u64 version                                         |
| 6 `ASK`     | director, host   |                                                     |
| 7 `REPORT`  | host, director   | u64 version, u32 layers, u32 slots, u32 experts,    |
|             |                  | u32 n, i64 [2, layers, experts] (tokens,            |
|             |                  | activations), i16 [layers, slots], JSON of n bytes  |
| 8 `ORDER`   | director, host   | u64 order, i32 [n, 3] (layer, slot, expert)         |
| 9 `ORDERED` | host, director   | u64 order, u8 [n] (`Outcome`)                       |

After `FOLLOW` the host sends its table, and again each time that it changes. `DONE` says
that no request of the engine is under way any more that was planned by an older one.
`ORDERED` comes when all moves of the order have ended.
"""

import enum
import struct
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from experts.host_report import HostReport
from experts.tier_view import SlotTable
from experts.transport.errors import BadFrameError
from experts.transport.messages import FORMAT_VERSION
from experts.types import HostId

REQUEST = 1
"""Laid out in `messages`."""
FOLLOW, TABLE, DONE, ASK, REPORT, ORDER, ORDERED = range(3, 10)

_START = struct.Struct("<HBx4x")
_NUMBERED = struct.Struct("<HBx4xQ")
_TABLE = struct.Struct("<HBx4xQII")
_REPORT = struct.Struct("<HBx4xQIIII")
_MOVE_BYTES = 12


class Outcome(enum.IntEnum):
    """How a move of an order ended."""

    DONE = 0
    FAILED = 1
    """The expert could not be read; the slot is empty."""
    REFUSED = 2
    """There is no such slot or expert, or another order has the slot; it is as it was."""


@dataclass(frozen=True, eq=False)
class Order:
    """What a host is to put into its slots, all at once."""

    number: int
    """Of who gives orders; the host says it again in its answer."""
    moves: NDArray[np.int32]  # [num_moves, 3]
    """Layer, the host's own slot, logical expert or EMPTY_SLOT."""

    def __post_init__(self) -> None:
        assert self.moves.ndim == 2
        assert self.moves.shape[1] == 3


@dataclass(frozen=True)
class Ordered:
    """How an order ended."""

    number: int
    outcomes: tuple[Outcome, ...]
    """Of its moves."""


def kind_of(frame: memoryview) -> int:
    """The kind of any frame, also of `messages`. Raises BadFrameError."""
    if len(frame) < _START.size:
        raise BadFrameError(f"no such frame: {len(frame)} bytes")
    version, kind = _START.unpack_from(frame)
    if version != FORMAT_VERSION:
        raise BadFrameError(f"no such frame: format version {version}, not {FORMAT_VERSION}")
    return int(kind)


def follow_frame() -> bytes:
    """Ask for the host's table, from here on."""
    return _START.pack(FORMAT_VERSION, FOLLOW)


def done_frame(version: int) -> bytes:
    """No request that an older table was asked by is under way."""
    return _NUMBERED.pack(FORMAT_VERSION, DONE, version)


def table_frame(table: SlotTable) -> bytes:
    """What the host's slots hold."""
    num_layers, num_slots = table.held.shape
    start = _TABLE.pack(FORMAT_VERSION, TABLE, table.version, num_layers, num_slots)
    return start + np.ascontiguousarray(table.held, "<i2").tobytes()


def ask_frame() -> bytes:
    """Ask for the host's report."""
    return _START.pack(FORMAT_VERSION, ASK)


def report_frame(report: HostReport) -> bytes:
    """What the host says of itself."""
    said = msgspec.json.encode(_Said(*(getattr(report, name) for name in _SAID)))
    num_layers, num_slots = report.table.held.shape
    sizes = (num_layers, num_slots, report.tokens.shape[1], len(said))
    start = _REPORT.pack(FORMAT_VERSION, REPORT, report.table.version, *sizes)
    counts = np.stack([report.tokens, report.activations]).astype("<i8")
    held = np.ascontiguousarray(report.table.held, "<i2")
    return start + counts.tobytes() + held.tobytes() + said


def order_frame(order: Order) -> bytes:
    """Have a host change its slots."""
    start = _NUMBERED.pack(FORMAT_VERSION, ORDER, order.number)
    return start + np.ascontiguousarray(order.moves, "<i4").tobytes()


def ordered_frame(ordered: Ordered) -> bytes:
    """All moves of the order have ended."""
    start = _NUMBERED.pack(FORMAT_VERSION, ORDERED, ordered.number)
    return start + bytes(ordered.outcomes)


def read_done(frame: memoryview) -> int:
    """The version. Raises BadFrameError."""
    _check_length(frame, _NUMBERED.size)
    return int(_NUMBERED.unpack_from(frame)[2])


def read_table(frame: memoryview) -> SlotTable:
    """A copy, which outlives the frame. Raises BadFrameError."""
    _check_at_least(frame, _TABLE.size)
    *_, version, num_layers, num_slots = _TABLE.unpack_from(frame)
    _check_length(frame, _TABLE.size + 2 * num_layers * num_slots)
    return SlotTable(int(version), _held(frame, _TABLE.size, num_layers, num_slots))


def read_report(frame: memoryview) -> HostReport:
    """A copy, which outlives the frame. Raises BadFrameError."""
    _check_at_least(frame, _REPORT.size)
    *_, version, num_layers, num_slots, num_experts, num_chars = _REPORT.unpack_from(frame)
    held_at = _REPORT.size + 16 * num_layers * num_experts
    said_at = held_at + 2 * num_layers * num_slots
    _check_length(frame, said_at + num_chars)
    counts = np.frombuffer(frame, "<i8", 2 * num_layers * num_experts, _REPORT.size)
    if len(counts) and counts.min() < 0:
        raise BadFrameError("a report counts below 0")
    tokens, activations = counts.reshape(2, num_layers, num_experts).astype(np.int64)
    table = SlotTable(int(version), _held(frame, held_at, num_layers, num_slots))
    try:
        said = msgspec.json.decode(frame[said_at:], type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrameError(f"a report that makes no sense: {error}") from None
    return HostReport(
        table=table, tokens=tokens, activations=activations, **msgspec.structs.asdict(said)
    )


def read_order(frame: memoryview) -> Order:
    """A copy, which outlives the frame; moves are the host's to check.

    Raises BadFrameError.
    """
    _check_at_least(frame, _NUMBERED.size)
    num_moves = (len(frame) - _NUMBERED.size) // _MOVE_BYTES
    _check_length(frame, _NUMBERED.size + _MOVE_BYTES * num_moves)
    moves = np.frombuffer(frame, "<i4", 3 * num_moves, _NUMBERED.size)
    number = int(_NUMBERED.unpack_from(frame)[2])
    return Order(number, moves.reshape(num_moves, 3).astype(np.int32))


def read_ordered(frame: memoryview) -> Ordered:
    """Raises BadFrameError."""
    _check_at_least(frame, _NUMBERED.size)
    try:
        outcomes = tuple(Outcome(number) for number in frame[_NUMBERED.size :])
    except ValueError as error:
        raise BadFrameError(f"no such frame: {error}") from None
    return Ordered(int(_NUMBERED.unpack_from(frame)[2]), outcomes)


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a report that are no arrays."""

    host: HostId
    activation_s: float
    token_s: float
    queue_s: float
    busy_share: float
    num_engines: int
    num_requests: int
    is_leaving: bool


_SAID = _Said.__struct_fields__


def _held(frame: memoryview, start: int, num_layers: int, num_slots: int) -> NDArray[np.int16]:
    held = np.frombuffer(frame, "<i2", num_layers * num_slots, start)
    return held.reshape(num_layers, num_slots).astype(np.int16)


def _check_at_least(frame: memoryview, num_bytes: int) -> None:
    if len(frame) < num_bytes:
        raise BadFrameError(f"no such frame: {len(frame)} bytes")


def _check_length(frame: memoryview, num_bytes: int) -> None:
    if len(frame) != num_bytes:
        raise BadFrameError(f"{len(frame)} bytes, where {num_bytes} are expected")

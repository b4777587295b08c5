"""Frames that are no work: what an engine and a host tell each other about slots.

An engine keeps one link to each host for these beside those for its requests. All
numbers are little-endian.

| bytes | follow (engine) | table (host)            | done (engine)            |
|-------|-----------------|-------------------------|--------------------------|
| 0     | u16 `FORMAT_VERSION` of `messages`, in all                            |
| 2     | u8 kind: 3      | u8 kind: 4              | u8 kind: 5               |
| 3     | 0               | 0                       | 0                        |
| 8     |                 | u64 version             | u64 version              |
| 16    |                 | u32 layers, u32 slots   |                          |
| 24    |                 | i16 [layers, slots]     |                          |

After `follow` the host sends its table, and again each time that it changes. `done` says
that no request of the engine is under way any more that was planned by an older one.
"""

import struct

import numpy as np

from experts.tier_view import SlotTable
from experts.transport.errors import BadFrameError
from experts.transport.messages import FORMAT_VERSION

FOLLOW, TABLE, DONE = 3, 4, 5

_START = struct.Struct("<HBx4x")
_DONE = struct.Struct("<HBx4xQ")
_TABLE = struct.Struct("<HBx4xQII")


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
    return _DONE.pack(FORMAT_VERSION, DONE, version)


def table_frame(table: SlotTable) -> bytes:
    """What the host's slots hold."""
    num_layers, num_slots = table.held.shape
    start = _TABLE.pack(FORMAT_VERSION, TABLE, table.version, num_layers, num_slots)
    return start + np.ascontiguousarray(table.held, "<i2").tobytes()


def read_done(frame: memoryview) -> int:
    """The version. Raises BadFrameError."""
    _check_length(frame, _DONE.size)
    return int(_DONE.unpack_from(frame)[2])


def read_table(frame: memoryview) -> SlotTable:
    """A copy, which outlives the frame. Raises BadFrameError."""
    if len(frame) < _TABLE.size:
        raise BadFrameError(f"no such frame: a table of {len(frame)} bytes")
    *_, version, num_layers, num_slots = _TABLE.unpack_from(frame)
    _check_length(frame, _TABLE.size + 2 * num_layers * num_slots)
    held = np.frombuffer(frame, "<i2", num_layers * num_slots, _TABLE.size)
    return SlotTable(int(version), held.reshape(num_layers, num_slots).astype(np.int16))


def _check_length(frame: memoryview, num_bytes: int) -> None:
    if len(frame) != num_bytes:
        raise BadFrameError(f"{len(frame)} bytes, where {num_bytes} are expected")

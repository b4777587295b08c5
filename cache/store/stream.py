"""Entries of the event stream: what mirrors follow.

Every entry has an *index*, one more than that of the entry before it: whoever follows
knows by it when entries have been trimmed that it has not read. Little-endian:

| kind | bytes |
|---|---|
| 0, changed | u8 kind, u16 bit, u64 number, u64 seq, u32 num_stored, hashes (u64) |
| 1, begun | u8 kind, u16 bit, u64 number, the holder as text |
| 2, ended | u8 kind, u16 bit, u64 number |
"""

import json
import struct
from dataclasses import dataclass, field

import numpy as np

from cache.types import Change, Epoch, EpochBit, Hashes, Holder

MAX_ENTRY_HASHES = 512
"""Most hashes of one entry, so that the stream's memory is bounded by its length."""

_HEAD = struct.Struct("<BHQ")
_CHANGED = struct.Struct("<QI")
_KINDS = (_CHANGE, _BEGIN, _END) = (0, 1, 2)


@dataclass(frozen=True)
class Changed:
    """Blocks that an epoch's cache has stored and removed."""

    index: int
    bit: EpochBit
    number: int
    change: Change = field(compare=False)


@dataclass(frozen=True)
class Begun:
    """An epoch has begun; its bit is in no entry of the index."""

    index: int
    epoch: Epoch


@dataclass(frozen=True)
class Ended:
    """An epoch has ended, and its entries are void."""

    index: int
    bit: EpochBit
    number: int


Entry = Changed | Begun | Ended


def holder_text(holder: Holder) -> str:
    """The holder as the registry keeps it."""
    return json.dumps([holder.replica_id, holder.dp_rank, holder.tier], separators=(",", ":"))


def parse_holder(text: bytes) -> Holder:
    """Raises ValueError for what is no holder."""
    replica_id, dp_rank, tier = json.loads(text)
    if not (isinstance(replica_id, str) and isinstance(dp_rank, int)):
        raise ValueError("no holder")
    if tier not in ("device", "host"):
        raise ValueError("no tier of memory")
    return Holder(replica_id, dp_rank, tier)


def encode_change(epoch: Epoch, change: Change) -> bytes:
    """The payload of a `Changed` entry."""
    head = _HEAD.pack(_CHANGE, epoch.bit, epoch.number)
    counts = _CHANGED.pack(change.seq, len(change.stored))
    return b"".join([head, counts, _bytes_of(change.stored), _bytes_of(change.removed)])


def decode_entry(index: int, payload: bytes) -> Entry:
    """Raises ValueError for a payload that no release of ours has written."""
    try:
        kind, bit, number = _HEAD.unpack_from(payload)
        rest = payload[_HEAD.size :]
        if kind == _BEGIN:
            return Begun(index, Epoch(parse_holder(rest), EpochBit(bit), number))
        if kind == _END:
            return Ended(index, EpochBit(bit), number)
        if kind != _CHANGE:
            raise ValueError(f"unknown kind {kind}")
        return Changed(index, EpochBit(bit), number, _decode_change(rest))
    except (struct.error, ValueError, TypeError) as error:
        raise ValueError(f"entry {index} of the event stream: {error}") from error


def _decode_change(rest: bytes) -> Change:
    seq, num_stored = _CHANGED.unpack_from(rest)
    hashes = np.frombuffer(rest, "<u8", offset=_CHANGED.size).astype(np.uint64)
    if num_stored > len(hashes):
        raise ValueError("is cut off")
    return Change(seq, hashes[:num_stored], hashes[num_stored:])


def _bytes_of(hashes: Hashes) -> bytes:
    return hashes.astype("<u8").tobytes()

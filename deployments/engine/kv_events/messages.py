"""vLLM's KV events as they come over the wire: msgpack, of `vllm.distributed.kv_events`.

A batch is `[time, [event, ...], dp_rank]`, an event a map whose `type` names its kind.
Fields that are not read here may come and go with vLLM's versions.
"""

from typing import Any

import msgspec

from deployments.engine.kv_events.types import EngineHash


class StoredEvent(msgspec.Struct, frozen=True, gc=False, tag="BlockStored"):
    """Blocks of one group that can be found from now on.

    Where the engine keeps only some of the blocks of a range (the state of a recurrent
    group at its end, say), `token_ids` are those of the whole range and `block_hashes`
    of the kept ones alone.
    """

    block_hashes: list[EngineHash]  # [num_blocks]
    token_ids: list[int]  # [num_blocks * block_size], or more
    block_size: int
    parent_block_hash: EngineHash | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None  # [num_blocks]
    group_idx: int | None = None
    locality: str | None = None

    @property
    def is_dense(self) -> bool:
        """All blocks of the range are kept."""
        return len(self.token_ids) == len(self.block_hashes) * self.block_size > 0


class RemovedEvent(msgspec.Struct, frozen=True, gc=False, tag="BlockRemoved"):
    """One copy of each of these blocks is gone."""

    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class ClearedEvent(msgspec.Struct, frozen=True, gc=False, tag="AllBlocksCleared"):
    """The prefix cache is empty."""


Event = StoredEvent | RemovedEvent | ClearedEvent


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[Event]


class _RawBatch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[msgspec.Raw]


_batch_decoder = msgspec.msgpack.Decoder(_Batch)
_raw_batch_decoder = msgspec.msgpack.Decoder(_RawBatch)
_event_decoder = msgspec.msgpack.Decoder(Event)
# Text that is no UTF-8 is none of msgspec's own errors.
_GARBLED = (msgspec.DecodeError, UnicodeDecodeError)


def decode_batch(payload: bytes) -> tuple[list[Event], list[str]]:
    """A batch's events in order, and what is wrong with those that make no sense.

    A batch that is none at all has no events, and one complaint.
    """
    try:
        return _batch_decoder.decode(payload).events, []
    except _GARBLED:
        return _decode_one_by_one(payload)


def _decode_one_by_one(payload: bytes) -> tuple[list[Event], list[str]]:
    try:
        raw_events = _raw_batch_decoder.decode(payload).events
    except _GARBLED as error:
        return [], [str(error)]
    events: list[Event] = []
    complaints = []
    for raw in raw_events:
        try:
            events.append(_event_decoder.decode(raw))
        except _GARBLED as error:
            complaints.append(str(error))
    return events, complaints

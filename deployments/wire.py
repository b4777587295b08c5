"""Messages between a gateway and an engine replica, as msgpack.

Each pair shares one long-lived connection, the *link* (see `peer`). The
gateway numbers its calls on the link with `seq`; up go submissions and aborts, and how
many sequences wait. Down come *frames*: everything one engine step produced for this
gateway; and, at least each `MAX_REPORT_S`, a *report* of the engine replica's load
(`router.types.LoadReport`). A frame is an array and a report a map, by which they are told
apart.
"""

import msgspec

from deployments.types import Call, Delta, Embedding
from router.types import LoadReport

MAX_REPORT_S = 1.0
"""An engine replica of which less is heard stands still."""


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Start this call; `num_prefill_tokens` of its prompt are expected not to be cached."""

    seq: int
    call: Call
    num_prefill_tokens: int


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Stop this call and free its blocks; unknown or finished ones are ignored."""

    seq: int


class Held(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """So many sequences wait at this gateway for the model, at whichever replica they end."""

    num_sequences: int


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a call failed: `kind` of the exception tree, message, field.

    `retry_after_s` is after how many seconds it may pass, None that it will not.
    """

    kind: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One delta of call `seq`, or its failure.

    `is_last` ends the call; `delta` and `failure` are never both set. An embedding
    travels as bytes of its own, by which it is told from other deltas: see `entry_of`.
    """

    seq: int
    delta: Delta | bytes | None
    is_last: bool
    failure: Failure | None = None


_encoder = msgspec.msgpack.Encoder()
_uplink_decoder = msgspec.msgpack.Decoder(Submit | Abort | Held)
_downlink_decoder = msgspec.msgpack.Decoder(list[Entry] | LoadReport)
_embedding_decoder = msgspec.msgpack.Decoder(Embedding)


def entry_of(seq: int, delta: Delta, is_last: bool) -> Entry:
    """The entry that carries the delta."""
    carried = _encoder.encode(delta) if isinstance(delta, Embedding) else delta
    return Entry(seq, carried, is_last)


def delta_of(entry: Entry) -> Delta:
    """The delta that the entry carries; raises msgspec.ValidationError for other bytes."""
    assert entry.delta is not None
    if isinstance(entry.delta, bytes):
        return _embedding_decoder.decode(entry.delta)
    return entry.delta


def encode(message: Submit | Abort | Held | list[Entry] | LoadReport) -> bytes:
    """Bytes of a message either way."""
    return _encoder.encode(message)


def decode_uplink(data: bytes) -> Submit | Abort | Held:
    """Inverse of `encode`; raises msgspec.ValidationError for anything else."""
    message: Submit | Abort | Held = _uplink_decoder.decode(data)
    return message


def decode_downlink(data: bytes) -> list[Entry] | LoadReport:
    """Inverse of `encode`; raises msgspec.ValidationError for anything else."""
    message: list[Entry] | LoadReport = _downlink_decoder.decode(data)
    return message

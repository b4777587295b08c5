"""Messages between a gateway and an engine replica, as msgpack.

Each pair shares one long-lived connection, the *link* (see `peer`). The
gateway numbers its calls on the link with `seq`; up go submissions and aborts,
down come *frames*: everything one engine step produced for this gateway.
"""

import msgspec

from deployments.types import Call, Delta, Embedding


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Start this call."""

    seq: int
    call: Call


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Stop this call and free its blocks; unknown or finished ones are ignored."""

    seq: int


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
_uplink_decoder = msgspec.msgpack.Decoder(Submit | Abort)
_frame_decoder = msgspec.msgpack.Decoder(list[Entry])
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


def encode(message: Submit | Abort | list[Entry]) -> bytes:
    """Bytes of an uplink message or of a frame."""
    return _encoder.encode(message)


def decode_uplink(data: bytes) -> Submit | Abort:
    """Inverse of `encode`; raises msgspec.ValidationError for anything else."""
    message: Submit | Abort = _uplink_decoder.decode(data)
    return message


def decode_frame(data: bytes) -> list[Entry]:
    """Inverse of `encode`; raises msgspec.ValidationError for anything else."""
    return _frame_decoder.decode(data)

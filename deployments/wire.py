"""Messages between a gateway and an engine replica, as msgpack.

Each pair shares one long-lived bidirectional gRPC stream, the *link*. The
gateway numbers its calls on the link with `seq`; up go batches of submissions
and aborts, down come *frames*: everything one engine step produced for this
gateway.
"""

import msgspec

from deployments.types import Call, Delta

LINK_METHOD = "/coterie.internal.EngineLink/Attach"
TOKEN_KEY = "coterie-link-token"


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Start this call."""

    seq: int
    call: Call


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Stop this call and free its blocks; unknown or finished ones are ignored."""

    seq: int


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a call failed: `kind` of the exception tree, message, field."""

    kind: str
    message: str
    param: str | None = None


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One delta of call `seq`, or its failure.

    `is_last` ends the call; `delta` and `failure` are never both set.
    """

    seq: int
    delta: Delta | None
    is_last: bool
    failure: Failure | None = None


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What one step gave to one gateway.

    `num_open_calls` counts the engine's calls from all gateways.
    """

    entries: list[Entry]
    num_open_calls: int


_encoder = msgspec.msgpack.Encoder()
_uplink_decoder = msgspec.msgpack.Decoder(list[Submit | Abort])
_frame_decoder = msgspec.msgpack.Decoder(Frame)


def encode(message: list[Submit | Abort] | Frame) -> bytes:
    """Bytes of an uplink batch or of a frame."""
    return _encoder.encode(message)


def decode_uplink(data: bytes) -> list[Submit | Abort]:
    """Inverse of `encode`; raises msgspec.ValidationError for anything else."""
    return _uplink_decoder.decode(data)


def decode_frame(data: bytes) -> Frame:
    """Inverse of `encode`; raises msgspec.ValidationError for anything else."""
    return _frame_decoder.decode(data)

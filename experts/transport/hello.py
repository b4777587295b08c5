"""The first words of a link, as msgpack: who dials says `Hello`, the other end answers
`Welcome` or `Refusal`, and says why."""

import msgspec

from experts.transport.errors import RefusedError
from experts.transport.link import Identity
from experts.transport.messages import FORMAT_VERSION

VERSION = 1
"""Of the set-up, the rings, and what goes around a frame between nodes."""

MAX_HELLO_BYTES = 4096
_MAX_TEXT_CHARS = 512


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Who dials, and what it needs."""

    version: int
    format_version: int
    """Of the frames' contents."""
    name: str
    model: str
    max_frame_bytes: int


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """The link is there."""

    name: str


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """There is no link."""

    reason: str


_decoder = msgspec.msgpack.Decoder(Hello | Welcome | Refusal)
encode = msgspec.msgpack.Encoder().encode


def hello_of(identity: Identity, max_frame_bytes: int) -> Hello:
    """What this side says when it dials."""
    assert len(identity.name) <= _MAX_TEXT_CHARS >= len(identity.model)
    return Hello(VERSION, FORMAT_VERSION, identity.name, identity.model, max_frame_bytes)


def read_hello(data: bytes) -> Hello:
    """Raises RefusedError for other bytes."""
    said = _decode(data)
    if not isinstance(said, Hello):
        raise RefusedError(f"a link begins with Hello, not with {type(said).__name__}")
    return said


def read_answer(data: bytes) -> Welcome:
    """Raises RefusedError for a refusal, with its reason, and for other bytes."""
    said = _decode(data)
    if isinstance(said, Refusal):
        raise RefusedError(f"the other end refuses the link: {said.reason[:_MAX_TEXT_CHARS]}")
    if not isinstance(said, Welcome):
        raise RefusedError("Hello was answered with Hello")
    return said


def refusal_of(hello: Hello, identity: Identity, max_frame_bytes: int) -> Refusal | None:
    """Why the link cannot be, if it cannot."""
    if hello.version != VERSION or hello.format_version != FORMAT_VERSION:
        return Refusal(
            f"it speaks version {hello.version}.{hello.format_version}, here it is "
            f"{VERSION}.{FORMAT_VERSION}; run one release everywhere"
        )
    if hello.model != identity.model:
        return Refusal(
            f"it serves the model {hello.model[:_MAX_TEXT_CHARS]}, here it is {identity.model}"
        )
    if not 0 < hello.max_frame_bytes <= max_frame_bytes:
        return Refusal(
            f"it wants frames of {hello.max_frame_bytes} bytes, here they have at most "
            f"{max_frame_bytes}; make max_frame_bytes the same"
        )
    return None


def _decode(data: bytes) -> Hello | Welcome | Refusal:
    try:
        said: Hello | Welcome | Refusal = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RefusedError("the first words of a link make no sense") from None
    return said

"""Whether a request can be this host's at all, before its slots are looked at."""

import struct
from dataclasses import dataclass

from experts.transport.message_words import HEADER_BYTES
from experts.transport.messages import (
    AnswerHeader,
    RequestHeader,
    RowType,
    Status,
    answer_bytes,
)
from experts.types import ModelShape

_SEQUENCE_AT = 8


@dataclass(frozen=True)
class HostLimits:
    """What a host computes."""

    shape: ModelShape
    row_type: RowType
    """Of requests' rows."""


def fault_of(header: RequestHeader, limits: HostLimits, max_frame_bytes: int) -> str | None:
    """What is wrong with a request, if something is."""
    shape = limits.shape
    if header.layer >= shape.num_layers:
        return f"layer {header.layer} of {shape.num_layers}"
    if header.hidden_size != shape.hidden_size:
        return f"rows of {header.hidden_size} numbers, not {shape.hidden_size}"
    if header.row_type != limits.row_type:
        return f"rows of {header.row_type.name}, not {limits.row_type.name}"
    if answer_bytes(header.num_pairs, header.hidden_size, header.answer_type) > max_frame_bytes:
        return f"an answer of more than {max_frame_bytes} bytes"
    return None


def answer_to(
    header: RequestHeader,
    status: Status = Status.OK,
    compute_s: float = 0.0,
    queue_s: float = 0.0,
) -> AnswerHeader:
    """Without rows unless the status is `OK`."""
    return AnswerHeader(
        header.sequence,
        status,
        header.num_pairs if status == Status.OK else 0,
        header.hidden_size,
        header.answer_type,
        compute_s,
        queue_s,
        has_checksum=header.has_checksum,
    )


def answer_to_unreadable(frame: memoryview, limits: HostLimits) -> AnswerHeader | None:
    """To a request that makes no sense; None where not even its number can be known."""
    if len(frame) < HEADER_BYTES:
        return None
    (sequence,) = struct.unpack_from("<Q", frame, _SEQUENCE_AT)
    hidden_size = limits.shape.hidden_size
    return AnswerHeader(sequence, Status.BAD_REQUEST, 0, hidden_size, limits.row_type, 0.0, 0.0)

"""What a gRPC client can read of an error beside its status code and message.

In the trailing metadata: the error's kind, and `google.rpc.Status` with the
standard details: `ErrorInfo` always, `BadRequest` where a field is wrong,
`RetryInfo` where the same request may pass later.
"""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from deployments.gateway.status import status_of
from infra.errors import CoterieError

KIND_KEY = "coterie-error"
DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "coterie"
# HTTP/2 peers take 8 KiB of metadata. The status message is in there too, where each
# byte that is not printable ASCII is written as three ("%E6"), and here once or twice
# again, in base64. A peer that gets more sees RESOURCE_EXHAUSTED in place of the error.
_MAX_ENCODED_BYTES = 3 * 1024
MAX_MESSAGE_CHARS = 1000
_MAX_DETAIL_CHARS = 300
_MAX_PARAM_CHARS = 64

TrailingMetadata = tuple[tuple[str, str | bytes], ...]


def status_message(error: CoterieError) -> str:
    """The error's message, cut to what fits into the status."""
    message = error.message[:MAX_MESSAGE_CHARS]
    left = _MAX_ENCODED_BYTES
    for index, char in enumerate(message):
        left -= _num_encoded_bytes(char)
        if left < 0:
            return message[:index]
    return message


def _num_encoded_bytes(char: str) -> int:
    """Bytes of a character in `grpc-message`, which is percent-encoded UTF-8."""
    if char.isascii():
        return 1 if char.isprintable() and char != "%" else 3
    return 3 * len(char.encode("utf-8", "replace"))


def trailing_metadata(error: CoterieError) -> TrailingMetadata:
    """To be sent with the status that stands for this error."""
    code: grpc.StatusCode = status_of(error).grpc_code
    status = status_pb2.Status(
        code=code.value[0],
        message=error.message[:_MAX_DETAIL_CHARS],
        details=[_packed(detail) for detail in _details(error)],
    )
    return ((KIND_KEY, error.kind), (DETAILS_KEY, status.SerializeToString()))


def _details(error: CoterieError) -> list[Message]:
    found: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.kind.upper(), domain=DOMAIN)
    ]
    if error.param is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.param[:_MAX_PARAM_CHARS], description=error.message[:_MAX_DETAIL_CHARS]
        )
        found.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(1000 * error.retry_after_s))
        found.append(retry)
    return found


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed

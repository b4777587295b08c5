"""The one table from our exceptions to gRPC status and HTTP status.

The most specific class of an exception that is listed counts. Anything that
is not a `CoterieError` is our own failure: INTERNAL and 500, with a message
that tells the client nothing of the inside.
"""

from typing import NamedTuple

import grpc

from infra import errors


class Status(NamedTuple):
    """How one kind of failure looks from outside.

    `is_passing` says that the same request may pass later.
    """

    grpc_code: grpc.StatusCode
    http_status: int
    openai_type: str
    is_passing: bool = False


INTERNAL = Status(grpc.StatusCode.INTERNAL, 500, "server_error")

STATUS_TABLE: dict[type[errors.CoterieError], Status] = {
    errors.RequestError: Status(grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error"),
    errors.RequestTooLargeError: Status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, 413, "invalid_request_error"
    ),
    errors.UnknownModelError: Status(grpc.StatusCode.NOT_FOUND, 404, "invalid_request_error"),
    errors.UnknownMethodError: Status(
        grpc.StatusCode.FAILED_PRECONDITION, 400, "invalid_request_error"
    ),
    errors.UnauthenticatedError: Status(
        grpc.StatusCode.UNAUTHENTICATED, 401, "invalid_request_error"
    ),
    errors.ForbiddenError: Status(
        grpc.StatusCode.PERMISSION_DENIED, 403, "invalid_request_error"
    ),
    errors.CapacityError: Status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_exceeded", is_passing=True
    ),
    errors.NoReplicaError: Status(
        grpc.StatusCode.UNAVAILABLE, 503, "server_error", is_passing=True
    ),
    errors.DeadlineError: Status(grpc.StatusCode.DEADLINE_EXCEEDED, 504, "timeout"),
    errors.EngineError: Status(
        grpc.StatusCode.UNAVAILABLE, 503, "server_error", is_passing=True
    ),
}


def status_of(error: BaseException) -> Status:
    """Row of `STATUS_TABLE` for the error's most specific listed class."""
    for cls in type(error).__mro__:
        if cls in STATUS_TABLE:
            return STATUS_TABLE[cls]
    return INTERNAL

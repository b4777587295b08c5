"""Errors that a client raises: the tree of `infra.errors` and one more.

    CoterieError                ours, or of an unknown kind
    ├── RequestError            fix the request (InvalidArgumentError,
    │                           PromptTooLongError, UnknownModelError, ...)
    ├── CapacityError           no room at the moment: try again later
    ├── DeadlineError           `timeout_s` passed
    ├── EngineError             the engine failed: may be tried again
    └── UnavailableError        no cluster answers there, or the connection broke

A cluster names the kind of a failure in the trailing metadata `coterie-error`.
Where that is missing, the failure comes from something in between (gRPC
itself, a proxy) and its gRPC status code decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import grpc

from coterie.status_details import read_details
from infra.errors import (
    CapacityError,
    ConfigError,
    CoterieError,
    DeadlineError,
    EngineError,
    ForbiddenError,
    InvalidArgumentError,
    NoReplicaError,
    PromptTooLongError,
    RequestError,
    RequestTooLargeError,
    UnauthenticatedError,
    UnknownMethodError,
    UnknownModelError,
    classes_by_kind,
)

__all__ = [
    "CapacityError",
    "ConfigError",
    "CoterieError",
    "DeadlineError",
    "EngineError",
    "ForbiddenError",
    "InvalidArgumentError",
    "NoReplicaError",
    "PromptTooLongError",
    "RequestError",
    "RequestTooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownMethodError",
    "UnknownModelError",
]

KIND_KEY = "coterie-error"
_UNREACHED = ("failed to connect", "dns resolution failed", "connection refused")
_HANDSHAKE = "handshake failed"
_SILENT = "timed out"
_FELL_SILENT = ("ping timeout", "keepalive timeout", "settings timeout")
_TOO_LARGE = "larger than max"


class UnavailableError(CoterieError):
    """No cluster answers at the address, or the connection to it broke."""

    kind = "unavailable"
    was_connected = False
    """The connection was lost; the request may have been at work."""
    may_return = False
    """One may soon answer there: what is there says nothing, as it stands still or the way to
    it is cut, or one has answered before. None knows of the request, unless `was_connected`."""


@dataclass(frozen=True, slots=True)
class CallSite:
    """What an error message tells about the call that failed."""

    address: str
    timeout_s: float | None = None
    has_answered: bool = False
    """A gateway has, at this address, to this client."""


class FailedCall(Protocol):
    """What `grpc.RpcError` has when a call raises it, blocking or async."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


ERROR_OF_CODE: dict[grpc.StatusCode, type[CoterieError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: UnknownModelError,
    grpc.StatusCode.FAILED_PRECONDITION: UnknownMethodError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: CapacityError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
}


def error_of(call: FailedCall, site: CallSite) -> CoterieError:
    """The error that a failed call stands for; it is returned, not raised.

    `param` and `retry_after_s` are what the cluster said.
    """
    details = call.details() or ""
    told = read_details(call.trailing_metadata())
    code = call.code()
    named = classes_by_kind().get(_kind_of(call))
    if named is not None:
        error = named(details or named.kind, param=told.param)
        error.retry_after_s = told.retry_after_s
        return error
    error = _class_of(code, details)(_message(code, details, site), param=told.param)
    error.retry_after_s = told.retry_after_s
    if told.retry_after_s is None and _is_absent(code, details):
        error.retry_after_s = 0.0  # gRPC connects anew by itself
        if isinstance(error, UnavailableError):
            error.may_return = _SILENT in details or site.has_answered
    elif isinstance(error, UnavailableError):
        error.was_connected = code is not grpc.StatusCode.UNIMPLEMENTED
        error.may_return = any(mark in details.lower() for mark in _FELL_SILENT)
    return error


def _class_of(code: grpc.StatusCode, details: str) -> type[CoterieError]:
    """Where no cluster has named it."""
    if _is_too_large(code, details):
        return RequestTooLargeError
    return ERROR_OF_CODE.get(code, CoterieError)


def _kind_of(call: FailedCall) -> str:
    for key, value in call.trailing_metadata() or ():
        if key == KIND_KEY:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return ""


def _message(code: grpc.StatusCode, details: str, site: CallSite) -> str:
    """What to tell where no cluster has worded it."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and site.timeout_s is not None:
        return (
            f"the answer was not complete after timeout_s={site.timeout_s:g}; "
            "allow more time or fewer tokens"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{site.address} answers, but not as a Coterie cluster does ({details})"
    if _is_too_large(code, details):
        return f"the request has more bytes than {site.address} takes ({details}); send less"
    if _is_absent(code, details):
        return _absence(details, site)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return f"the connection to {site.address} ended before the answer did: {details}"
    return details or code.name


def _absence(details: str, site: CallSite) -> str:
    if _HANDSHAKE in details:
        return f"no secure connection to {site.address}; is ca_file its authority? {details}"
    if _SILENT in details:
        return f"nothing answers at {site.address}, and nothing refuses to: {details}"
    any_more = " any more" if site.has_answered else ""
    return (
        f"no Coterie cluster answers at {site.address}{any_more}; start one with `coterie up`"
    )


def _is_absent(code: grpc.StatusCode, details: str) -> bool:
    """Whether no connection came about, by the words of gRPC's own messages.

    A connection that was lost is another matter: the request may have been at work.
    """
    text = details.lower()
    is_unreached = not text or any(mark in text for mark in _UNREACHED)
    return code is grpc.StatusCode.UNAVAILABLE and is_unreached


def _is_too_large(code: grpc.StatusCode, details: str) -> bool:
    """Whether gRPC itself, which knows no kinds, has refused a message for its size."""
    return code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details

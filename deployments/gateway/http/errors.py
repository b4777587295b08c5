"""OpenAI's error body for every failure, by the table of `status`."""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from deployments.gateway.error_feed import answered
from deployments.gateway.status import INTERNAL, Status, status_of
from infra.errors import CoterieError

_MAX_MESSAGE_CHARS = 1000
# Where OpenAI's clients look for a word of their own, in place of our kind.
_OPENAI_CODES = {
    "prompt_too_long": "context_length_exceeded",
    "unauthenticated": "invalid_api_key",
    "unknown_model": "model_not_found",
}
# OpenAI's clients send again what failed with 500 or above, unless they are told.
_NO_RETRY = (b"x-should-retry", b"false")
_PATH_KINDS = {404: "unknown_path", 405: "method_not_allowed"}

log = logging.getLogger(__name__)


class ErrorDetail(msgspec.Struct, frozen=True):
    """What OpenAI's clients read from an error; `code` is our exception's kind."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error's answer, and the data of a stream's error event."""

    error: ErrorDetail


class HttpFailure(NamedTuple):
    """A failure as it is sent: status, body (JSON), further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


def to_failure(
    error: Exception, request_id: str, param_names: Mapping[str, str] | None = None
) -> HttpFailure:
    """How the client is told; a failure of our own is logged and not explained.

    `param_names` maps the service's field names to this API's.
    """
    status = status_of(error)
    if status is INTERNAL or not isinstance(error, CoterieError):
        log.error("request %s failed", request_id, exc_info=error)
        answered(CoterieError.kind, "http")
        message = f"the gateway failed; its log tells why under request id {request_id}"
        return _failure(INTERNAL, ErrorDetail(message, INTERNAL.openai_type, None, "internal"))
    answered(error.kind, "http")
    error = error.renamed(param_names or {})
    message = error.message[:_MAX_MESSAGE_CHARS]
    code = _OPENAI_CODES.get(error.kind, error.kind)
    detail = ErrorDetail(message, status.openai_type, error.param, code)
    return _failure(status, detail, error.retry_after_s)


def to_path_failure(status: int, method: str, path: str) -> HttpFailure:
    """For a path, or a method on a path, that nothing answers."""
    if status == HTTPStatus.NOT_FOUND:
        message = (
            f"there is no {path} here; this gateway answers /v1/models, /v1/completions, "
            "/v1/chat/completions, /v1/responses, /v1/embeddings, "
            "/v2/models/{name}/generate and /health"
        )
    else:
        message = f"{path} does not take {method}"
    kind = _PATH_KINDS.get(status, "bad_request")
    answered(kind, "http")
    detail = ErrorDetail(message[:_MAX_MESSAGE_CHARS], "invalid_request_error", None, kind)
    return HttpFailure(status, msgspec.json.encode(ErrorBody(detail)), (_NO_RETRY,))


def _failure(
    status: Status, detail: ErrorDetail, retry_after_s: float | None = None
) -> HttpFailure:
    headers: tuple[tuple[bytes, bytes], ...] = () if status.is_passing else (_NO_RETRY,)
    if retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % math.ceil(retry_after_s)),)
    return HttpFailure(status.http_status, msgspec.json.encode(ErrorBody(detail)), headers)

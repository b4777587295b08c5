"""The guard of the HTTP door: no path is answered before it is known who asks."""

import re
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.gateway.caller import STRANGER, current_caller, set_caller
from deployments.gateway.http.errors import HttpFailure, to_failure
from deployments.gateway.http.exchange import Exchange, request_id_or_new
from deployments.gateway.kserve.http import to_triton_failure
from deployments.gateway.security.guard import (
    API_KEY,
    AUTHORIZATION,
    PRIORITY,
    Credentials,
    Guard,
)
from infra.errors import (
    CoterieError,
    ForbiddenError,
    InvalidArgumentError,
    UnauthenticatedError,
)

METRICS_PATH = "/metrics"
# Probes of health carry no keys, and are told no more than that the server is up.
OPEN_PATHS = frozenset({"/health", "/-/healthz", "/v2/health/live", "/v2/health/ready"})

Endpoint = Callable[[Request], Awaitable[Response]]

# Routes match a path with a line's end behind it as they match it without.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CHALLENGE = (b"www-authenticate", b"Bearer")


class HttpGuard:
    """Sets the caller for the task that answers; refuses where there is none."""

    def __init__(self, app: ASGIApp, guard: Guard, *, has_open_metrics: bool = False) -> None:
        self._app = app
        self._guard = guard
        self._open_paths = OPEN_PATHS | ({METRICS_PATH} if has_open_metrics else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            set_caller(STRANGER)
            await self._app(scope, receive, send)
            return
        try:
            _check_path(scope["path"])
            self._guard.enter(_credentials(scope))
        except CoterieError as error:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)


def operators_only(endpoint: Endpoint) -> Endpoint:
    """The endpoint for what tells of all tenants, by whatever path it is reached.

    It raises ForbiddenError for a tenant's key.
    """

    async def answer(request: Request) -> Response:
        if not current_caller().is_operator:
            raise ForbiddenError("this needs an operator's key; the one given is a tenant's")
        return await endpoint(request)

    return answer


def _check_path(path: str) -> None:
    if _CONTROL.search(path):
        raise InvalidArgumentError("the path has control characters; leave them out")


def _credentials(scope: Scope) -> Credentials:
    headers = Headers(scope=scope)
    return Credentials(headers.get(AUTHORIZATION), headers.get(API_KEY), headers.get(PRIORITY))


async def _refuse(error: CoterieError, scope: Scope, receive: Receive, send: Send) -> None:
    exchange = Exchange(scope, receive, send)
    exchange.request_id = request_id_or_new(Headers(scope=scope))
    await exchange.send_failure(_failure(error, scope["path"], exchange.request_id))


def _failure(error: CoterieError, path: str, request_id: str) -> HttpFailure:
    to_form = to_triton_failure if path.startswith("/v2") else to_failure
    failure = to_form(error, request_id)
    if isinstance(error, UnauthenticatedError):
        return failure._replace(headers=(*failure.headers, _CHALLENGE))
    return failure

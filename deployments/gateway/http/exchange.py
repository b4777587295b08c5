"""One HTTP request and its answer, straight on ASGI: body in, JSON or events out."""

import asyncio
import math
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from deployments.gateway.caller import current_caller
from deployments.gateway.checks import check_request_id
from deployments.gateway.http.errors import HttpFailure, to_failure
from deployments.types import CallOptions
from infra.errors import InvalidArgumentError, RequestTooLargeError
from infra.tasks import end_all
from infra.telemetry.trace_context import TRACE_RESPONSE, carrier_in

REQUEST_ID_HEADER = "x-request-id"
SESSION_HEADER = "x-session-id"
TIMEOUT_HEADER = "x-request-timeout-s"
_JSON = (b"content-type", b"application/json")
_EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Reverse proxies such as nginx would hold events back.
    (b"x-accel-buffering", b"no"),
)


class ClientGoneError(Exception):
    """The client closed the connection: nobody is left to answer."""


def request_id_of(headers: Headers) -> str:
    """The client's id for this request, or a new one.

    Raises InvalidArgumentError for an id that cannot stand in a header or a log.
    """
    given = headers.get(REQUEST_ID_HEADER)
    if given is None:
        return uuid.uuid4().hex
    try:
        check_request_id(given)
    except InvalidArgumentError as error:
        raise error.renamed({"request_id": REQUEST_ID_HEADER}) from None
    return given


def request_id_or_new(headers: Headers) -> str:
    """The same, with a new id in place of one that is refused."""
    try:
        return request_id_of(headers)
    except InvalidArgumentError:
        return uuid.uuid4().hex


class Exchange:
    """Reads one request and sends its answer: whole, as events, or a failure."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = uuid.uuid4().hex
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._send = send
        self._has_started = False
        self._path: str = scope.get("path", "")
        self._trace_headers: tuple[tuple[bytes, bytes], ...] = ()

    def read_options(self) -> CallOptions:
        """Who asks, under which id, until when. Raises InvalidArgumentError that names
        the header.
        """
        self.request_id = request_id_of(self._headers)
        given = self._headers.get(TIMEOUT_HEADER)
        caller = current_caller()
        return CallOptions(
            request_id=self.request_id,
            timeout_s=None if given is None else _to_seconds(given),
            tenant=caller.tenant,
            priority=caller.priority,
            door="kserve_http" if self._path.startswith("/v2") else "openai",
            trace=carrier_in(self._headers.items()),
            on_trace=self._add_trace,
            session=self._headers.get(SESSION_HEADER),
        )

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body. Raises RequestTooLargeError as soon as it is known to be
        over `max_bytes`, ClientGoneError where the client leaves before its end.
        """
        announced = self._headers.get("content-length", "")
        if announced.isdecimal():
            _check_size(int(announced), max_bytes)
        body = bytearray()
        has_more = True
        while has_more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            _check_size(len(body), max_bytes)
            has_more = message.get("more_body", False)
        return bytes(body)

    async def run_while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; cancel it as soon as the client is gone, even if it sends nothing.

        Raises what `work` raises, or what listening to the client does; returns quietly
        where the client left. What `work` fails with after that is logged.
        """
        tasks = asyncio.ensure_future(work), asyncio.ensure_future(self._wait_gone())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            first = next(task for task in tasks if task.done())
            first.result()
        finally:
            await end_all(tasks)

    async def answer(
        self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Send a whole answer; `body` is JSON."""
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, (_JSON, length, *headers))
        await self._send({"type": "http.response.body", "body": body})

    async def write_event(self, event: bytes) -> None:
        """Send one event of a stream; the first one sends the status 200 before it."""
        if not self._has_started:
            await self._start(200, _EVENTS)
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def end_events(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: Exception, param_names: Mapping[str, str]) -> None:
        """Tell the client in OpenAI's form; see `send_failure`."""
        await self.send_failure(to_failure(error, self.request_id, param_names))

    async def send_failure(self, failure: HttpFailure) -> None:
        """Tell the client: by status before the first event, by an event after it."""
        if not self._has_started:
            await self.answer(failure.status, failure.body, failure.headers)
            return
        await self.write_event(b"data: " + failure.body + b"\n\n")
        await self.end_events()

    async def _start(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._has_started = True
        own = (REQUEST_ID_HEADER.encode(), self.request_id.encode())
        all_headers = [own, *self._trace_headers, *headers]
        await self._send(
            {"type": "http.response.start", "status": status, "headers": all_headers}
        )

    def _add_trace(self, trace: str) -> None:
        """Of several requests that one body makes, the first one's counts."""
        if not self._trace_headers:
            self._trace_headers = ((TRACE_RESPONSE.encode(), trace.encode()),)

    async def _wait_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise RequestTooLargeError(
            f"the body is over {max_bytes} bytes; send less, or raise "
            "gateway.max_message_bytes in the cluster's configuration"
        )


def _to_seconds(given: str) -> float:
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = math.nan
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise InvalidArgumentError(
            f"{TIMEOUT_HEADER} must be a number of seconds above 0", param=TIMEOUT_HEADER
        )
    return timeout_s

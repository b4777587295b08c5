"""Sending one request of a batch to an OpenAI-style server."""

import json
import time
from typing import Any, Protocol

import aiohttp

from coterie.batch.retry import parse_retry_after
from coterie.batch.types import Answer, BatchRequest
from coterie.errors import UnavailableError
from coterie.http_server import HttpServer
from coterie.model_list import CONTACT_LIMIT_S, ask_models

_HEADERS = {"x-priority": "low"}
_REFUSAL_CHARACTERS = 1000


class Sender(Protocol):
    """A way to a server."""

    async def check(self) -> None:
        """Reach the server. Call it first: what no request would survive is told here.

        Raises UnavailableError where nothing answers or no such server,
        UnauthenticatedError where it wants another key.
        """
        ...

    async def send(self, request: BatchRequest) -> Answer:
        """What the server says, whatever its status.

        Raises UnavailableError where there is no answer, DeadlineError where it took
        too long. Leaving early ends the request.
        """
        ...

    async def close(self) -> None:
        """Give the connections back; requests that are open end."""
        ...


class HttpSender:
    """Sends to `server`, at low priority: a Coterie cluster then serves them in the
    gaps that other requests leave. Other servers ignore that."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    async def check(self) -> None:
        """See `Sender.check`."""
        limit_s = min(self._server.timeout_s or CONTACT_LIMIT_S, CONTACT_LIMIT_S)
        await ask_models(self._server, limit_s, is_named=True)

    async def send(self, request: BatchRequest) -> Answer:
        """See `Sender.send`."""
        url = self._server.url + request.path.removeprefix("/v1")
        with self._server.failures():
            async with self._server.session.post(
                url, json=request.body, headers=_HEADERS
            ) as response:
                return _answer_of(response, await response.read())

    async def close(self) -> None:
        """See `Sender.close`."""
        await self._server.session.close()


def _answer_of(response: aiohttp.ClientResponse, body: bytes) -> Answer:
    headers = response.headers
    return Answer(
        status=response.status,
        request_id=headers.get("x-request-id", ""),
        body=_body_of(response.status, body),
        retry_after_s=parse_retry_after(headers.get("retry-after"), time.time()),
    )


def _body_of(status: int, body: bytes) -> Any:
    """The JSON; of a refusal without JSON (a proxy's, say) the text, in OpenAI's form."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        if status < 300:
            raise UnavailableError(f"the answer is no JSON: {error}") from error
        return {"error": {"message": body[:_REFUSAL_CHARACTERS].decode(errors="replace")}}

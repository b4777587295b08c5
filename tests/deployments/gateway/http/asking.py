"""Single requests to the door without a socket, and what became of them."""

import json
from typing import Any

import httpx2

from deployments.gateway.http_door import http_app
from deployments.settings import GatewaySection
from deployments.types import Sampling
from tests.builders.fake_service import FakeService, text_deltas

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


async def ask(
    service: FakeService,
    method: str,
    path: str,
    *,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
    **section: Any,
) -> httpx2.Response:
    """One request without a socket."""
    transport = httpx2.ASGITransport(
        http_app(service, GatewaySection(**section)), raise_app_exceptions=False
    )
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        response = await client.request(method, path, content=content, headers=headers)
    service.check_invariants()
    return response


async def post(service: FakeService, path: str, body: Any, **options: Any) -> httpx2.Response:
    """The same with a JSON body."""
    return await ask(service, "POST", path, content=json.dumps(body).encode(), **options)


async def chat(service: FakeService, **fields: Any) -> httpx2.Response:
    """A chat request with these fields beside the least that it needs."""
    return await post(
        service, CHAT, {"messages": [{"role": "user", "content": "hi"}], **fields}
    )


async def complete(service: FakeService, **fields: Any) -> httpx2.Response:
    """A completions request with these fields beside the least that it needs."""
    return await post(service, COMPLETIONS, {"prompt": "hi", **fields})


def events(response: httpx2.Response) -> list[Any]:
    """Data of a stream's events; the last of a whole stream is "[DONE]"."""
    blocks = response.text.split("\n\n")
    assert blocks.pop() == "", "the last event is cut off"
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


SENDERS = {"chat": chat, "completions": complete}


async def sampling_of(api: str, **fields: Any) -> Sampling:
    """The sampling that the service is asked for."""
    service = FakeService(text_deltas("ok"))
    response = await SENDERS[api](service, **fields)
    assert response.status_code == 200, response.text
    return service.last_call.sampling


async def refusal_of(api: str, **fields: Any) -> tuple[str, str]:
    """Field and message of the 400 that such a request gets; nothing is submitted."""
    service = FakeService(text_deltas("ok"))
    response = await SENDERS[api](service, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["code"] == "invalid_argument"
    assert service.calls == []
    return error["param"], error["message"]

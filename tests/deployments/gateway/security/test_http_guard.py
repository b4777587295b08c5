"""No HTTP path without a key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, AuthenticationError
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployments.gateway.doors import Doors
from deployments.gateway.http_door import http_app
from deployments.gateway.security.guard import Guard
from deployments.gateway.security.http_guard import METRICS_PATH, OPEN_PATHS, operators_only
from deployments.gateway.security.key_file import KeyFile
from deployments.gateway.telemetry.metrics_page import MetricsPage
from deployments.local_cluster import free_ports
from deployments.settings import GatewaySection
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.security.conftest import Keys


def app_of(service: FakeService, keys: Keys, **section: Any) -> Any:
    return http_app(service, GatewaySection(**section), Guard(KeyFile(keys.file)))


def paths_of(app: Any) -> list[tuple[str, str]]:
    """(method, path) of all that the door answers."""
    return [
        (method, re.sub(r"\{[^}]*\}", "1", route.path.replace("{name:path}", "tiny")))
        for route in app.routes
        for method in sorted(route.methods)
    ]


async def ask(
    app: Any, method: str, path: str, headers: Mapping[str, str] | None = None, **body: Any
) -> httpx2.Response:
    given = (headers or {}).items()
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        sent = [(name.encode(), value.encode("latin-1")) for name, value in given]
        return await client.request(method, path, headers=sent, json=body or None)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_without_a_key_no_path_is_answered(service: FakeService, keys: Keys) -> None:
    app = app_of(service, keys)
    found = paths_of(app)
    assert {path for _, path in found} >= {"/v1/chat/completions", "/v2", *OPEN_PATHS}
    status = {(m, path): (await ask(app, m, path)).status_code for m, path in found}
    assert {path for (_, path), code in status.items() if code != 401} == OPEN_PATHS
    assert service.calls == []


async def test_with_a_key_no_path_is_refused_for_want_of_one(
    service: FakeService, keys: Keys
) -> None:
    app = app_of(service, keys)
    status = [
        (await ask(app, m, path, bearer(keys.operator))).status_code
        for m, path in paths_of(app)
    ]
    assert not {401, 403} & set(status)


async def test_a_path_that_is_not_there_is_refused_as_well(
    service: FakeService, keys: Keys
) -> None:
    app = app_of(service, keys)
    assert (await ask(app, "GET", "/nothing")).status_code == 401
    assert (await ask(app, "GET", "/nothing", bearer(keys.tenant))).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer ct-unknown"},
        {"authorization": "Bearer "},
        {"authorization": "Basic YWNtZTphY21l"},
        {"x-api-key": "ct-unknown"},
        {"x-api-key": "\xff"},
    ],
)
async def test_the_refusal_has_the_form_that_openai_s_clients_know(
    service: FakeService, keys: Keys, headers: dict[str, str]
) -> None:
    response = await ask(app_of(service, keys), "POST", "/v1/completions", headers, prompt="hi")
    error = response.json()["error"]
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")


async def test_triton_s_paths_refuse_in_triton_s_form(service: FakeService, keys: Keys) -> None:
    response = await ask(app_of(service, keys), "POST", "/v2/models/tiny/generate")
    assert response.status_code == 401
    assert "API key" in response.json()["error"]


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_tenant_and_priority_go_with_the_request(
    service: FakeService, keys: Keys, name: str
) -> None:
    value = f"BEARER {keys.tenant}" if name == "authorization" else keys.tenant
    response = await ask(
        app_of(service, keys),
        "POST",
        "/v1/completions",
        {name: value, "x-priority": "low"},
        prompt="hi",
    )
    assert response.status_code == 200
    options = service.last_call.options
    assert (options.tenant, options.priority) == ("acme", "low")


async def test_an_unknown_priority_is_a_bad_request(service: FakeService, keys: Keys) -> None:
    headers = bearer(keys.tenant) | {"x-priority": "urgent"}
    response = await ask(app_of(service, keys), "GET", "/v1/models", headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-priority"


def with_metrics(app: Any, *, is_open: bool = False) -> Any:
    async def metrics(_: Request) -> Response:
        return PlainTextResponse("numbers")

    endpoint = metrics if is_open else operators_only(metrics)
    app.router.routes.insert(0, Route(METRICS_PATH, endpoint))
    return app


@pytest.mark.parametrize("path", ["/metrics", "/metrics%0A", "/metrics/", "//metrics"])
async def test_no_way_of_writing_the_path_of_metrics_opens_them_to_a_tenant(
    service: FakeService, keys: Keys, path: str
) -> None:
    app = with_metrics(app_of(service, keys))
    response = await ask(app, "GET", path, bearer(keys.tenant))
    assert response.status_code >= 300
    assert "numbers" not in response.text


@pytest.mark.parametrize("path", ["/health%0A", "/v1/models%0D", "/v1/models/%00", "/%7F"])
async def test_a_path_with_control_characters_is_a_bad_request(
    service: FakeService, keys: Keys, path: str
) -> None:
    response = await ask(app_of(service, keys), "GET", path, bearer(keys.operator))
    assert response.status_code == 400
    assert "control characters" in response.text


async def test_metrics_are_the_operator_s_unless_the_configuration_opens_them(
    service: FakeService, keys: Keys
) -> None:
    closed = with_metrics(app_of(service, keys))
    opened = with_metrics(app_of(service, keys, open_metrics=True), is_open=True)
    assert (await ask(closed, "GET", METRICS_PATH)).status_code == 401
    refused = await ask(closed, "GET", METRICS_PATH, bearer(keys.tenant))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    given = await ask(closed, "GET", METRICS_PATH, bearer(keys.operator))
    assert (given.status_code, given.text) == (200, "numbers")
    assert (await ask(opened, "GET", METRICS_PATH)).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/metrics%0A"])
async def test_the_door_s_own_page_of_metrics_is_the_operator_s(
    service: FakeService, keys: Keys, tmp_path: Path, path: str
) -> None:
    page = MetricsPage(CollectorRegistry(), tmp_path / "peers", "one")
    grpc_port, http_port = free_ports(2)
    section = GatewaySection(
        grpc_port=grpc_port, http_port=http_port, api_keys_file=keys.file, drain_timeout_s=5.0
    )
    doors = Doors(section, service, metrics_page=page)
    await doors.open()
    async with httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{http_port}{path}"
        codes = [
            (await client.get(url, headers=bearer(key))).status_code
            for key in (keys.tenant, keys.operator)
        ]
    await doors.close()
    assert codes == ([403, 200] if path == METRICS_PATH else [400, 400])


async def test_openai_s_own_client_enters_with_its_api_key(
    service: FakeService, keys: Keys
) -> None:
    async with opened(service, ["acme", "ops"], api_keys_file=keys.file) as (_, _grpc, http_at):
        url = f"http://{http_at}/v1"
        async with AsyncOpenAI(base_url=url, api_key=keys.tenant, max_retries=0) as client:
            answer = await client.completions.create(model="tiny", prompt="hi")
        assert answer.choices[0].text == "Hello"
        assert service.last_call.options.tenant == "acme"
        async with AsyncOpenAI(base_url=url, api_key="ct-wrong", max_retries=0) as client:
            with pytest.raises(AuthenticationError) as failed:
                await client.completions.create(model="tiny", prompt="hi")
        assert failed.value.code == "invalid_api_key"


async def test_without_a_file_of_keys_all_paths_are_open(service: FakeService) -> None:
    app = http_app(service, GatewaySection())
    status = [(await ask(app, m, path)).status_code for m, path in paths_of(app)]
    assert 401 not in status

"""A real Prometheus scrapes a gateway, evaluates the alerts, and answers the dashboards."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.local_cluster import free_ports
from infra.observability.dashboards import DASHBOARDS
from tests.builders.fake_engine import FakeEngine
from tests.deployments.gateway.telemetry.watched import Watched, cluster_service, watched
from tests.source_code import REPOSITORY

ALERTS = REPOSITORY / "infra" / "observability" / "alerts.yaml"
_LIMIT_S = 30.0


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Its URL. It scrapes the target each second."""
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("no prometheus: install it (Debian's package `prometheus`)")
    (port,) = free_ports(1)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "coterie", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        found,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def answer(client: httpx2.AsyncClient, expression: str) -> list[Any]:
    """What it says to a query; waits until it is up."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            try:
                got = await client.get("/api/v1/query", params={"query": expression})
            except httpx2.ConnectError:
                await asyncio.sleep(0.1)
                continue
            body = got.json()
            assert body["status"] == "success", body
            found: list[Any] = body["data"]["result"]
            return found


async def until_it_says(client: httpx2.AsyncClient, expression: str, value: str) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not any(r["value"][1] == value for r in await answer(client, expression)):
            await asyncio.sleep(0.2)


def address_of(there: Watched) -> str:
    return str(there.http.base_url).removeprefix("http://").rstrip("/")


@pytest.mark.timeout(120)
async def test_prometheus_scrapes_a_gateway_and_evaluates_what_is_asked(
    tmp_path: Path,
) -> None:
    async with cluster_service(FakeEngine()) as service, watched(service) as there:
        with prometheus(tmp_path, address_of(there)) as url:
            async with httpx2.AsyncClient(base_url=url) as client:
                await check(client, there)


async def check(client: httpx2.AsyncClient, there: Watched) -> None:
    """What is asked of it is there."""
    await until_it_says(client, "up", "1")
    for _ in range(3):
        await there.generate(model="tiny")
    await until_it_says(client, 'sum(coterie_requests_total{outcome="finished"})', "3")
    await until_it_says(client, "coterie_ready_engine_replicas", "1")
    for dashboard in DASHBOARDS:
        for _, row in dashboard.rows:
            for panel in row:
                for series in panel.series:
                    text = series.expression.replace("$__rate_interval", "1m")
                    await answer(client, text.replace("$model", ".*"))
    rules = (await client.get("/api/v1/rules")).json()["data"]["groups"]
    states = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
    assert len(states) > 10
    assert set(states.values()) <= {"ok", "unknown"}

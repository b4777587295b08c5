"""What `/metrics` says after requests through real doors."""

import asyncio
import os
import re
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from deployments.gateway.resume import Resume
from deployments.gateway.telemetry.metrics import GatewayMetrics, TenantLabels
from deployments.gateway.telemetry.metrics_page import MetricsPage
from deployments.gateway.telemetry.observation import Observation
from deployments.local_cluster import free_ports
from deployments.types import CallOptions, Sampling
from infra.errors import CapacityError, EngineError
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.telemetry.watched import Watched, watched
from tests.source_code import REPOSITORY

# Without types.
parse_openmetrics: Any = openmetrics_parser.text_string_to_metric_families

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NOT_TIMES = ("_total", "_count", "_replicas", "_requests")


def values(page: str, *names: str) -> dict[tuple[str, ...], float]:
    """Samples that are no times, by name and label values but for the replica's."""
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "replica")): s.value
        for family in parse_text(page)
        for s in family.samples
        if s.name.startswith("coterie_") and s.name.endswith(names or NOT_TIMES) and s.value
    }


async def scraped(gateway: Watched, *names: str) -> dict[tuple[str, ...], float]:
    return values((await gateway.metrics()).text, *names)


async def test_a_finished_stream_is_counted_and_timed() -> None:
    service = FakeService(text_deltas("Hel", "lo", "!", num_cached_tokens=2))
    async with watched(service) as gateway:
        await gateway.generate()
        assert await scraped(gateway) == {
            ("coterie_requests_total", "grpc", "tiny", "finished", "anonymous"): 1,
            ("coterie_prompt_tokens_total", "tiny", "anonymous"): 3,
            ("coterie_cached_prompt_tokens_total", "tiny", "anonymous"): 2,
            ("coterie_output_tokens_total", "tiny", "anonymous"): 6,
            ("coterie_finished_outputs_total", "tiny", "stop"): 1,
            ("coterie_time_to_first_token_seconds_count", "tiny"): 1,
            ("coterie_time_per_output_token_seconds_count", "tiny"): 1,
            ("coterie_inter_token_latency_seconds_count", "tiny"): 2,
            ("coterie_request_duration_seconds_count", "tiny"): 1,
            ("coterie_request_queue_seconds_count", "tiny", "anonymous"): 1,
            ("coterie_ready_engine_replicas", "tiny"): 1,
        }


async def test_whole_answers_have_a_duration_but_no_time_to_first_token() -> None:
    async with watched(FakeService(text_deltas("a", "b"))) as gateway:
        await gateway.chat()
        assert await scraped(gateway, "_seconds_count") == {
            ("coterie_request_duration_seconds_count", "tiny"): 1,
            ("coterie_request_queue_seconds_count", "tiny", "anonymous"): 1,
        }


async def test_each_end_has_its_outcome_and_each_error_its_kind() -> None:
    begun = text_deltas("a", "b")[:1]
    cases = [
        (FakeService(refusal=CapacityError("full")), "rejected", "overloaded"),
        (FakeService([*begun, EngineError("gone")]), "failed", "engine_failed"),
        (FakeService([ValueError("a mistake of ours")]), "failed", "internal"),
    ]
    for service, outcome, kind in cases:
        async with watched(service) as gateway:
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.generate()
            found = await scraped(gateway, "requests_total", "errors_total", "open_requests")
            assert found == {
                ("coterie_requests_total", "grpc", "tiny", outcome, "anonymous"): 1,
                ("coterie_errors_total", "grpc", kind, "tiny"): 1,
            }


async def test_a_client_that_leaves_counts_as_aborted() -> None:
    service = FakeService([*text_deltas("a", "b")[:1], asyncio.Event()])
    async with watched(service) as gateway:
        async with gateway.http.stream(
            "POST", "/v1/completions", json={"model": "tiny", "prompt": "x", "stream": True}
        ) as answer:
            await anext(answer.aiter_lines())
            assert await scraped(gateway, "open_requests") == {
                ("coterie_open_requests", "tiny"): 1
            }
        await service.wait_aborted()
        found = await scraped(gateway, "requests_total", "open_requests")
    assert found == {("coterie_requests_total", "openai", "tiny", "aborted", "anonymous"): 1}


async def test_names_that_clients_make_up_are_no_labels() -> None:
    async with watched(FakeService()) as gateway:
        for number in range(3):
            await gateway.chat(model=f"made-up-{number}")
        assert await scraped(gateway, "requests_total", "errors_total") == {
            ("coterie_requests_total", "openai", "unknown", "rejected", "anonymous"): 3,
            ("coterie_errors_total", "openai", "unknown_model", "unknown"): 3,
        }


def test_tenants_beyond_the_bound_share_a_label() -> None:
    labels = TenantLabels(2)
    assert [labels.label(t) for t in ("a", "b", "c", "d", "a")] == [
        "a",
        "b",
        "other",
        "other",
        "a",
    ]


async def test_both_formats_are_answered_and_read_by_prometheus_own_parsers() -> None:
    async with watched(FakeService(text_deltas("a", "b"))) as gateway:
        await gateway.generate()
        text, openmetrics = await gateway.metrics(), await gateway.metrics(OPENMETRICS)
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    families = {f.name: f.type for f in parse_openmetrics(openmetrics.text)}
    assert families["coterie_requests"] == "counter"
    assert families["coterie_time_to_first_token_seconds"] == "histogram"
    assert {f.name for f in parse_text(text.text)} == set(families)


async def started_page(folder: Path, name: str) -> MetricsPage:
    metrics = GatewayMetrics(10)
    metrics.count_answer("unauthenticated", "http")
    cards = [model_card("awake"), model_card("asleep", scales_to_zero=True)]
    metrics.add_states(lambda: cards, lambda: {"awake": 2})
    page = MetricsPage(metrics.registry, folder, name)
    await page.start()
    return page


def left_by_a_killed_replica(folder: Path) -> Path:
    """A socket that nobody listens on."""
    path = folder / "killed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


async def test_a_scrape_of_one_replica_answers_for_all_of_the_node(tmp_path: Path) -> None:
    pages = [await started_page(tmp_path, f"replica-{number}") for number in range(2)]
    body, _ = await pages[0].render("")
    for page in pages:
        await page.stop()
    samples = [s for f in parse_text(body.decode()) for s in f.samples]
    answers = [s for s in samples if s.name == "coterie_error_answers_total"]
    assert {s.labels["replica"]: s.value for s in answers} == {"replica-0": 1, "replica-1": 1}


async def test_what_a_killed_replica_left_is_in_nobody_s_way(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    page = await started_page(folder, "other")
    left = left_by_a_killed_replica(folder)
    body, _ = await page.render("")
    assert b'replica="other"' in body
    assert not left.exists()
    left_by_a_killed_replica(folder)
    await page.stop()
    assert not folder.exists()


@pytest.mark.parametrize("answer", [b"", b"\x91", b"\x91\x94\xa1\xff\xa0\xa0\x90", b"\x91\x01"])
async def test_a_replica_that_answers_with_nonsense_is_left_out(
    tmp_path: Path, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def answered(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    page = await started_page(tmp_path, "one")
    async with await asyncio.start_unix_server(answered, tmp_path / "odd.sock"):
        body, _ = await page.render("")
        await page.stop()
    assert b'replica="one"' in body
    assert "no metrics of replica odd" in caplog.text


async def test_a_replica_that_starts_is_not_taken_for_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_before_it_listens: list[Path] = []
    listen = socket.socket.listen

    def look(listener: socket.socket, *args: int) -> None:
        seen_before_it_listens.extend(tmp_path.glob("*.sock"))
        listen(listener, *args)

    monkeypatch.setattr(socket.socket, "listen", look)
    page = await started_page(tmp_path, "one")
    assert seen_before_it_listens == []
    assert os.listdir(tmp_path) == ["one.sock"]
    await page.stop()


async def test_a_port_of_its_own_takes_metrics_off_the_door() -> None:
    (port,) = free_ports(1)
    async with watched(FakeService(text_deltas("a")), metrics_port=port) as gateway:
        await gateway.generate()
        assert (await gateway.metrics()).status_code == 404
        async with httpx2.AsyncClient() as client:
            page = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert values(page.text, "requests_total")


async def test_metrics_can_be_turned_off() -> None:
    async with watched(FakeService(text_deltas("a")), metrics=False) as gateway:
        await gateway.generate()
        assert (await gateway.metrics()).status_code == 404


def test_what_the_gateway_holds_and_has_lost_is_read_at_the_scrape() -> None:
    metrics = GatewayMetrics(10)
    metrics.add_states(lambda: [], lambda: {"tiny": 3})
    metrics.add_losses(lambda: 2)
    found = metrics.registry.get_sample_value
    assert found("coterie_held_requests", {"model": "tiny"}) == 3
    assert found("coterie_usage_records_lost_total") == 2


def documented() -> dict[str, tuple[str, ...]]:
    """Metrics and their labels in ARCHITECTURE.md's table."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `coterie_")]
    return {row[1].strip(" `"): tuple(re.findall(r"`(\w+)`", row[2])) for row in rows}


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    metrics = GatewayMetrics(10)
    metrics.add_states(lambda: [model_card()], lambda: {"tiny": 1})
    metrics.add_losses(lambda: 0)
    metrics.add_routing({})
    metrics.add_indexes({})
    metrics.add_experts(dict)
    metrics.add_drafts({})
    assert documented() == metrics.described()


def test_what_came_of_lost_replicas_is_counted_and_pauses_are_timed() -> None:
    metrics = GatewayMetrics(10)
    observation = Observation(
        "text_completion", "tiny", Sampling(), CallOptions(), started_s=0, started_at_s=0
    )
    observation.checked_s = 0.0
    observation.outcome = "finished"
    observation.resumes = [
        Resume("continue", 0.2),
        Resume("failed", 3.0),
        Resume("continue", 0.4),
    ]
    metrics.on_checked(observation)
    metrics.on_end(observation)
    found = metrics.registry.get_sample_value
    outcomes = {
        outcome: found("coterie_resumes_total", {"model": "tiny", "outcome": outcome})
        for outcome in ("continue", "failed", "replay")
    }
    assert outcomes == {"continue": 2, "failed": 1, "replay": None}
    pauses_s = found("coterie_resume_pause_seconds_sum", {"model": "tiny"})
    assert pauses_s == pytest.approx(0.6)

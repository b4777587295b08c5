"""One usage record and one log record a request, through real doors."""

import asyncio
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray._common.formatters import JSONFormatter

from deployments.kserve import grpc_service_pb2_grpc as kserve_grpc
from infra.errors import CapacityError, EngineError
from infra.telemetry.usage_record import UsageRecord, decode_record
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.kserve.messages import infer_request
from tests.deployments.gateway.telemetry.watched import watched

EXPECTED = {
    "event": "request",
    "request_id": "r",
    "trace_id": None,
    "tenant": "anonymous",
    "priority": "normal",
    "door": "grpc",
    "operation": "text_completion",
    "model": "tiny",
    "outcome": "finished",
    "error": None,
    "num_prompt_tokens": 13,
    "num_cached_tokens": 0,
    "num_output_tokens": 14,
    "queue_s": 0.0,
}


def records_in(directory: Path) -> list[UsageRecord]:
    paths = directory.glob("usage-*.jsonl")
    return [decode_record(line) for path in paths for line in path.read_bytes().splitlines()]


async def recorded(service: FakeService, directory: Path, **fields: Any) -> list[UsageRecord]:
    """Records of one native stream, read after the gateway has closed."""
    async with watched(service, usage_dir=str(directory)) as gateway:
        with suppress(grpc.aio.AioRpcError):
            await gateway.generate(request_id="r", **fields)
    return records_in(directory)


async def test_a_finished_request_leaves_one_record_with_its_tokens(tmp_path: Path) -> None:
    cards = [model_card(), model_card("noisy", base_model="tiny")]
    service = FakeService(text_deltas("Hel", "lo", num_cached_tokens=2), cards=cards)
    (found,) = await recorded(service, tmp_path, model="noisy")
    assert found == UsageRecord(
        record_id=found.record_id,
        request_id="r",
        tenant="anonymous",
        model="tiny",
        adapter="noisy",
        started_s=found.started_s,
        ended_s=found.ended_s,
        outcome="finished",
        num_prompt_tokens=3,
        num_cached_tokens=2,
        num_output_tokens=5,
        door="grpc",
    )
    assert len(found.record_id) == 32
    assert 0 <= found.ended_s - found.started_s < 5


async def test_a_failed_request_is_recorded_with_what_it_used(tmp_path: Path) -> None:
    service = FakeService([*text_deltas("Hel", "lo")[:1], EngineError("gone")])
    (found,) = await recorded(service, tmp_path)
    assert (found.outcome, found.error, found.num_output_tokens) == (
        "failed",
        "engine_failed",
        3,
    )


async def test_a_rejected_request_used_nothing_and_leaves_no_record(tmp_path: Path) -> None:
    assert await recorded(FakeService(refusal=CapacityError("full")), tmp_path) == []


async def test_a_request_whose_client_left_is_recorded_as_aborted(tmp_path: Path) -> None:
    service = FakeService([*text_deltas("Hel", "lo")[:1], asyncio.Event()])
    async with watched(service, usage_dir=str(tmp_path)) as gateway:
        body = {"model": "tiny", "prompt": "abc", "stream": True}
        async with gateway.http.stream("POST", "/v1/completions", json=body) as answer:
            await anext(answer.aiter_lines())
        await service.wait_aborted()
    (found,) = records_in(tmp_path)
    assert (found.outcome, found.door, found.num_output_tokens) == ("aborted", "openai", 3)


async def test_the_log_shows_no_name_that_a_client_made_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="deployments.gateway.telemetry.access_log")
    async with watched(FakeService(), access_log=True) as gateway:
        await gateway.chat(model="made-up\n" * 1000)
    (found,) = [
        r for r in caplog.records if r.name == "deployments.gateway.telemetry.access_log"
    ]
    assert "made-up" not in JSONFormatter().format(found)
    assert found.__dict__["model"] == "unknown"


@pytest.mark.parametrize("request_id", ["x" * 129, "two words", "line\nend", "ö"])
async def test_an_id_that_cannot_stand_in_a_log_is_refused_before_it_could(
    caplog: pytest.LogCaptureFixture, request_id: str
) -> None:
    caplog.set_level(logging.INFO, logger="deployments.gateway.telemetry.access_log")
    async with watched(FakeService(text_deltas("a")), access_log=True) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway.generate(request_id=request_id)
        kserve = kserve_grpc.GRPCInferenceServiceStub(gateway.grpc)
        message = infer_request()
        message.id = request_id
        with pytest.raises(grpc.aio.AioRpcError) as refused_by_kserve:
            await kserve.ModelInfer(message, timeout=10)
    for failure, name in ((refused, "request_id"), (refused_by_kserve, "id")):
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(failure.value.details()).startswith(f"{name} must be")
    assert caplog.records == []


async def test_the_id_among_the_metadata_is_bounded_at_both_grpc_doors() -> None:
    async with watched(FakeService(text_deltas("a"))) as gateway:
        metadata = ("x-request-id", "x" * 129)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway.generate(metadata)
        kserve = kserve_grpc.GRPCInferenceServiceStub(gateway.grpc)
        message = infer_request()
        message.ClearField("id")
        with pytest.raises(grpc.aio.AioRpcError) as refused_by_kserve:
            await kserve.ModelInfer(message, metadata=(metadata,), timeout=10)
        answers = kserve.ModelStreamInfer(iter([message]), metadata=(metadata,), timeout=10)
        (in_stream,) = [answer.error_message async for answer in answers]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_by_kserve.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "1 to 128 printable ASCII characters" in in_stream


async def test_the_log_has_one_record_a_request_and_nothing_that_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="deployments.gateway.telemetry.access_log")
    async with watched(
        FakeService(text_deltas("secret answer", "!")), access_log=True
    ) as gateway:
        await gateway.generate(text="secret prompt", request_id="r")
    (found,) = [
        r for r in caplog.records if r.name == "deployments.gateway.telemetry.access_log"
    ]
    # The formatter that Serve's replicas use for JSON.
    line = JSONFormatter().format(found)
    fields = json.loads(line)
    assert "secret" not in line
    assert fields["message"].startswith(
        "text_completion r of anonymous finished: 13 + 14 tokens"
    )
    times = {name: fields.pop(name) for name in ("ttft_s", "tpot_s", "duration_s")}
    assert 0 < times["ttft_s"] <= times["duration_s"] < 5
    assert times["tpot_s"] > 0
    said = {name: fields[name] for name in EXPECTED}
    assert said == EXPECTED

"""Traces of requests through real doors, links and exports, engines apart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from coterie.v1 import inference_pb2 as pb
from deployments.engine.traced_engine import TracedEngine
from deployments.gateway.resume import Resume
from deployments.gateway.telemetry.observation import Observation
from deployments.gateway.telemetry.request_spans import RequestSpans
from deployments.kserve import grpc_service_pb2_grpc as kserve_grpc
from deployments.types import CallOptions, Sampling
from infra.errors import CapacityError, EngineError
from infra.telemetry.settings import TelemetrySection
from infra.telemetry.tracing import Tracing
from tests.builders.fake_engine import FakeEngine
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.builders.otlp_receiver import OtlpReceiver, receiving
from tests.deployments.gateway.kserve.messages import infer_request
from tests.deployments.gateway.telemetry.watched import (
    Watched,
    cluster_service,
    logs_of,
    watched,
)

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
RESPONSE = "traceresponse"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01")


@asynccontextmanager
async def traced(
    service: FakeService, **section: Any
) -> AsyncIterator[tuple[Watched, OtlpReceiver]]:
    """Leave the block of `watched` before reading what was received."""
    with receiving() as (receiver, endpoint):
        async with watched(service, otlp_endpoint=endpoint, **section) as gateway:
            yield gateway, receiver
            await gateway.telemetry.close()


async def test_one_trace_spans_client_gateway_link_and_engine() -> None:
    with receiving() as (receiver, endpoint):
        tracing = Tracing.start(TelemetrySection(otlp_endpoint=endpoint), "engine")
        assert tracing is not None
        engine = TracedEngine(FakeEngine(), tracing, "tiny", "127.0.0.1")
        async with (
            cluster_service(engine) as service,
            watched(service, logs_of(service), otlp_endpoint=endpoint) as gateway,
        ):
            sampling = pb.SamplingParameters(max_tokens=3)
            _, trailing = await gateway.generate(SAMPLED, sampling=sampling, request_id="r")
        tracing.close()

    name = "text_completion tiny"
    server, engine_span = (
        receiver.named(name, f"coterie-{part}") for part in ("gateway", "engine")
    )
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}
    assert {(span.service, span.name): span.parent_id for span in receiver.spans} == {
        ("coterie-gateway", name): SPAN_ID,
        ("coterie-gateway", "check"): server.span_id,
        ("coterie-gateway", "tokenize"): receiver.named("check").span_id,
        ("coterie-gateway", "hold"): server.span_id,
        ("coterie-engine", name): server.span_id,
        ("coterie-engine", "prefill"): engine_span.span_id,
        ("coterie-engine", "decode"): engine_span.span_id,
    }
    assert trailing["traceresponse"] == f"00-{TRACE_ID}-{server.span_id}-01"
    assert (server.kind, engine_span.kind) == ("server", "server")
    prefill, decode = receiver.named("prefill"), receiver.named("decode")
    assert engine_span.started_ns <= prefill.started_ns <= prefill.ended_ns
    assert prefill.ended_ns == decode.started_ns <= decode.ended_ns <= engine_span.ended_ns
    assert engine_span.attributes["gen_ai.usage.output_tokens"] == 3
    assert set(server.events) == {"route", "first_token"}


async def test_the_gateways_span_has_the_genai_attributes() -> None:
    service = FakeService(text_deltas("Hel", "lo", num_cached_tokens=2))
    async with traced(service) as (gateway, receiver):
        await gateway.chat(
            headers=dict([SAMPLED]) | {"x-request-id": "r"},
            temperature=0.5,
            top_p=0.25,
            max_tokens=7,
            stream=True,
        )
        port = gateway.http.base_url.port
    span = receiver.named("chat tiny")
    ttft_s = span.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < ttft_s < 5
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "coterie",
        "gen_ai.output.type": "text",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.25,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.response.id": "r",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": len("user: Hi\n"),
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": port,
        "coterie.request.id": "r",
        "coterie.door": "openai",
        "coterie.tenant": "anonymous",
        "coterie.priority": "normal",
        "coterie.outcome": "finished",
        "coterie.queue_s": 0.0,
    }
    assert span.events == ("first_token",)
    assert span.parent_id == SPAN_ID


async def test_a_resumed_request_tells_of_its_losses() -> None:
    service = FakeService(text_deltas("a"))
    service.resumes = [Resume("failed", 1.5), Resume("continue", 0.25)]
    async with traced(service, trace_sampling_ratio=1.0) as (gateway, receiver):
        await gateway.chat()
    attributes = receiver.named("chat tiny").attributes
    assert attributes["coterie.resume.outcomes"] == ["failed", "continue"]
    assert attributes["coterie.resume.pauses_s"] == [1.5, 0.25]


async def test_what_is_not_sampled_exports_nothing_but_has_an_id() -> None:
    service = FakeService(text_deltas("a"))
    async with traced(service, trace_sampling_ratio=0.0) as (gateway, receiver):
        answer = await gateway.chat()
    assert receiver.spans == []
    version, trace_id, _, flags = answer.headers["traceresponse"].split("-")
    assert (version, len(trace_id), int(flags, 16) & 1) == ("00", 32, 0)
    assert service.last_call.options.trace is None


async def test_without_a_client_s_context_the_gateway_begins_the_trace() -> None:
    async with traced(FakeService(text_deltas("a")), trace_sampling_ratio=1.0) as (
        gateway,
        receiver,
    ):
        answer = await gateway.chat()
    span = receiver.named("chat tiny")
    assert span.parent_id == ""
    assert answer.headers["traceresponse"][:52] == f"00-{span.trace_id}-{span.span_id}"


async def test_baggage_and_state_go_on_to_the_engine() -> None:
    service = FakeService(text_deltas("a"))
    async with traced(service) as (gateway, receiver):
        state = {"tracestate": "vendor=1", "baggage": "k=v"}
        await gateway.chat(headers=dict([SAMPLED]) | state)
    span = receiver.named("chat tiny")
    assert service.last_call.options.trace == state | {
        "traceparent": f"00-{TRACE_ID}-{span.span_id}-01"
    }


@pytest.mark.parametrize(
    ("service", "error", "status"),
    [
        (FakeService(refusal=CapacityError("full")), "overloaded", 0),
        (FakeService([EngineError("gone")]), "engine_failed", 2),
    ],
    ids=["rejected", "failed"],
)
async def test_an_error_stands_in_the_span_and_its_id_in_the_answer(
    service: FakeService, error: str, status: int
) -> None:
    async with traced(service) as (gateway, receiver):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await gateway.generate(SAMPLED)
    span = receiver.named("text_completion tiny")
    assert (span.attributes["error.type"], span.status) == (error, status)
    trailing = dict(failure.value.trailing_metadata())
    assert trailing["coterie-error"] == error
    assert trailing["traceresponse"] == f"00-{TRACE_ID}-{span.span_id}-01"


@pytest.mark.parametrize(
    ("host", "address"), [("0.0.0.0", None), ("::", None), ("10.1.2.3", "10.1.2.3")]
)
def test_an_address_of_all_interfaces_is_no_server_s_address(
    host: str, address: str | None
) -> None:
    with receiving() as (receiver, endpoint):
        section = TelemetrySection(otlp_endpoint=endpoint, trace_sampling_ratio=1.0)
        tracing = Tracing.start(section, "gateway")
        assert tracing is not None
        spans = RequestSpans(tracing, host, {"grpc": 8080}, {})
        watched_one = Observation("chat", "tiny", Sampling(), CallOptions(), 0.0, 0.0)
        spans.on_start(watched_one)
        watched_one.outcome = "finished"
        spans.on_end(watched_one)
        tracing.close()
    (span,) = receiver.spans
    assert span.attributes.get("server.address") == address
    assert span.attributes["server.port"] == 8080


async def test_an_embedding_has_no_finish_reasons() -> None:
    service = FakeService(cards=[model_card(task="embed")])
    async with traced(service) as (gateway, receiver):
        body = {"model": "tiny", "input": ["a", "b"]}
        await gateway.http.post("/v1/embeddings", json=body, headers=dict([SAMPLED]))
    attributes = receiver.named("embeddings tiny").attributes
    assert "gen_ai.response.finish_reasons" not in attributes
    assert attributes["gen_ai.usage.input_tokens"] == 2


async def test_a_name_that_a_client_made_up_is_in_no_span() -> None:
    async with traced(FakeService()) as (gateway, receiver):
        await gateway.chat(headers=dict([SAMPLED]), model="made-up\n" * 1000)
    span = receiver.named("chat unknown")
    assert span.attributes["gen_ai.request.model"] == "unknown"
    assert not [v for v in span.attributes.values() if "made-up" in str(v)]


async def test_of_a_stream_of_requests_the_first_one_s_trace_is_told() -> None:
    async with traced(FakeService(text_deltas("a"))) as (gateway, receiver):
        stub = kserve_grpc.GRPCInferenceServiceStub(gateway.grpc)
        messages = [infer_request(text_input=text) for text in ("first", "second")]
        for number, message in enumerate(messages):
            message.id = str(number)
        has_answer = asyncio.Event()

        async def one_by_one() -> AsyncIterator[Any]:
            yield messages[0]
            await has_answer.wait()
            yield messages[1]

        call = stub.ModelStreamInfer(one_by_one(), metadata=(SAMPLED,), timeout=10)
        async for _ in call:
            has_answer.set()
        told = [value for key, value in await call.trailing_metadata() if key == RESPONSE]
    spans = [s for s in receiver.spans if s.name == "text_completion tiny"]
    (first,) = [s for s in spans if s.attributes["coterie.request.id"] == "0"]
    assert told == [f"00-{TRACE_ID}-{first.span_id}-01"]


async def test_where_nothing_is_traced_no_id_is_given_back() -> None:
    async with watched(FakeService(text_deltas("a"))) as gateway:
        _, trailing = await gateway.generate(SAMPLED)
        answer = await gateway.chat(headers=dict([SAMPLED]))
    assert "traceresponse" not in trailing
    assert "traceresponse" not in answer.headers

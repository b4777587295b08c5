"""Spans of calls in the engine replica, at a receiver of the real protocol."""

from contextlib import aclosing

import msgspec
import pytest

from deployments.engine.traced_engine import TracedEngine
from deployments.types import Call, Delta, Pooling, Sampling
from infra.errors import InvalidArgumentError
from infra.telemetry.settings import TelemetrySection
from infra.telemetry.tracing import Tracing
from tests.builders.fake_engine import FakeEngine
from tests.builders.otlp_receiver import ReceivedSpan, receiving

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
SAMPLED, UNSAMPLED = {"traceparent": PARENT + "1"}, {"traceparent": PARENT + "0"}


def call(first: int = 1, *, trace: dict[str, str] | None = None) -> Call:
    sampling = Sampling(max_tokens=3)
    return Call("r", [first, 2], sampling, adapter="noisy", trace=trace)


async def spans_of(calling: Call, *, num_taken: int = 3) -> list[ReceivedSpan]:
    """Spans that running the call exports; it is left after `num_taken` deltas."""
    with receiving() as (receiver, endpoint):
        tracing = Tracing.start(TelemetrySection(otlp_endpoint=endpoint), "engine")
        assert tracing is not None
        taken: list[Delta] = []
        engine = TracedEngine(FakeEngine(), tracing, "m", "10.0.0.1")
        try:
            async with aclosing(engine.run(calling)) as deltas:
                async for delta, _ in deltas:
                    taken.append(delta)
                    if len(taken) == num_taken < 3:
                        break
        finally:
            tracing.close()
    return receiver.spans


async def test_a_sampled_call_has_a_span_with_what_it_did() -> None:
    *stages, span = await spans_of(call(trace=SAMPLED))
    assert [stage.name for stage in stages] == ["prefill", "decode"]
    assert span.name == "text_completion m"
    assert span.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 3,
        "server.address": "10.0.0.1",
        "coterie.request.id": "r",
        "coterie.adapter": "noisy",
        "coterie.outcome": "finished",
    }


@pytest.mark.parametrize("trace", [None, UNSAMPLED])
async def test_a_call_that_is_not_sampled_has_none(trace: dict[str, str] | None) -> None:
    assert await spans_of(call(trace=trace)) == []


async def test_a_call_for_an_embedding_is_named_so() -> None:
    calling = msgspec.structs.replace(call(trace=SAMPLED), pooling=Pooling())
    span = (await spans_of(calling))[-1]
    assert span.name == "embeddings m"
    assert span.attributes["gen_ai.operation.name"] == "embeddings"


async def test_a_call_that_is_left_is_aborted() -> None:
    span = (await spans_of(call(trace=SAMPLED), num_taken=1))[-1]
    assert span.attributes["coterie.outcome"] == "aborted"
    assert span.attributes["gen_ai.usage.output_tokens"] == 1


async def test_a_refused_call_has_its_error() -> None:
    with receiving() as (receiver, endpoint):
        tracing = Tracing.start(TelemetrySection(otlp_endpoint=endpoint), "engine")
        assert tracing is not None
        engine = TracedEngine(FakeEngine(), tracing, "m", "10.0.0.1")
        with pytest.raises(InvalidArgumentError):
            async for _ in engine.run(call(13, trace=SAMPLED)):
                pass
        tracing.close()
    (span,) = receiver.spans
    assert (span.attributes["error.type"], span.status) == ("invalid_argument", 2)

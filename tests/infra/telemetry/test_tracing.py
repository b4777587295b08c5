"""Spans on their way to a real receiver; configuration and environment."""

import traceback
from pathlib import Path

import pytest
from opentelemetry.trace import SpanKind

from infra.errors import ConfigError
from infra.telemetry.settings import TelemetrySection
from infra.telemetry.tracing import Tracing, as_current, child_span
from tests.builders.otlp_receiver import receiving, receiving_http

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-2] + "00"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_SDK_DISABLED",
        "OTEL_SERVICE_NAME",
        "OTEL_TRACES_SAMPLER",
    ):
        monkeypatch.delenv(name, raising=False)


def started(**section: object) -> Tracing:
    tracing = Tracing.start(TelemetrySection.model_validate(section), "gateway")
    assert tracing is not None
    return tracing


def span_names_exported(carrier: dict[str, str] | None, **section: object) -> list[str]:
    with receiving() as (receiver, endpoint):
        tracing = started(otlp_endpoint=endpoint, **section)
        tracing.span("one", SpanKind.SERVER, carrier=carrier).end()
        tracing.close()
        return [span.name for span in receiver.spans]


def test_a_headers_file_that_is_no_text_is_an_error_that_does_not_show_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "headers"
    path.write_bytes(b"token=secret\xff")
    section = TelemetrySection(otlp_endpoint="http://127.0.0.1:1", otlp_headers_file=path)
    with pytest.raises(ConfigError, match=r"otlp_headers_file: .* is not UTF-8") as refused:
        Tracing.start(section, "gateway")
    assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_an_attribute_is_cut_to_256_characters() -> None:
    with receiving() as (receiver, endpoint):
        tracing = started(otlp_endpoint=endpoint, trace_sampling_ratio=1.0)
        span = tracing.span("one", SpanKind.SERVER)
        span.set_attribute("words", "a" * 100_000)
        span.end()
        tracing.close()
    assert receiver.named("one").attributes["words"] == "a" * 256


def test_nothing_is_traced_where_nobody_says_where_to() -> None:
    assert Tracing.start(TelemetrySection(), "gateway") is None


def test_a_span_arrives_by_grpc_with_its_service_and_the_headers_of_the_file(
    tmp_path: Path,
) -> None:
    headers = tmp_path / "headers"
    headers.write_text("X-Token=secret\n\n")
    with receiving() as (receiver, endpoint):
        tracing = started(
            otlp_endpoint=endpoint, otlp_headers_file=str(headers), trace_sampling_ratio=1.0
        )
        tracing.span("one", SpanKind.SERVER).end()
        tracing.close()
    assert receiver.named("one")[:3] == ("coterie-gateway", "one", "server")
    assert receiver.metadata[0]["x-token"] == "secret"


def test_a_span_arrives_by_http() -> None:
    with receiving_http() as (receiver, endpoint):
        tracing = started(
            otlp_endpoint=endpoint, otlp_protocol="http", trace_sampling_ratio=1.0
        )
        tracing.span("one", SpanKind.SERVER).end()
        tracing.close()
    assert receiver.named("one").parent_id == ""


def test_the_environment_names_receiver_and_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as (receiver, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        tracing = started()
        tracing.span("one", SpanKind.SERVER).end()
        tracing.close()
    assert receiver.named("one").service == "mine"


def test_the_environment_turns_tracing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Tracing.start(TelemetrySection(otlp_endpoint="http://127.0.0.1:1"), "x") is None


def test_the_clients_decision_counts_before_the_ratio() -> None:
    assert span_names_exported({"traceparent": SAMPLED}, trace_sampling_ratio=0.0) == ["one"]
    assert span_names_exported({"traceparent": UNSAMPLED}, trace_sampling_ratio=1.0) == []


def test_a_client_that_is_not_trusted_cannot_force_a_trace() -> None:
    untrusted = {"trust_client_sampling": False, "trace_sampling_ratio": 0.0}
    assert span_names_exported({"traceparent": SAMPLED}, **untrusted) == []


def test_a_span_is_the_child_of_what_the_carrier_names_and_passes_it_on() -> None:
    with receiving() as (receiver, endpoint):
        tracing = started(otlp_endpoint=endpoint)
        received = {"traceparent": SAMPLED, "tracestate": "a=1", "baggage": "k=v"}
        span = tracing.span("one", SpanKind.SERVER, carrier=received)
        carrier = tracing.carrier_of(span, received)
        span.end()
        tracing.close()
    one = receiver.named("one")
    assert (one.trace_id, one.parent_id) == (SAMPLED[3:35], SAMPLED[36:52])
    assert carrier == {
        "traceparent": f"00-{one.trace_id}-{one.span_id}-01",
        "tracestate": "a=1",
        "baggage": "k=v",
    }


def test_a_child_span_hangs_below_the_current_one_and_is_nothing_elsewhere() -> None:
    with receiving() as (receiver, endpoint):
        tracing = started(otlp_endpoint=endpoint, trace_sampling_ratio=1.0)
        span = tracing.span("one", SpanKind.SERVER)
        with as_current(tracing, span), child_span("two"), child_span("three"):
            pass
        with child_span("four"):
            pass
        span.end()
        tracing.close()
    assert {s.name for s in receiver.spans} == {"one", "two", "three"}
    assert receiver.named("three").parent_id == receiver.named("two").span_id
    assert receiver.named("two").parent_id == receiver.named("one").span_id


@pytest.mark.parametrize("text", ["no sign", "=value"])
def test_a_headers_file_that_does_not_hold_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_text(text)
    section = TelemetrySection(otlp_endpoint="http://127.0.0.1:1", otlp_headers_file=path)
    with pytest.raises(ConfigError, match="name=value"):
        Tracing.start(section, "gateway")

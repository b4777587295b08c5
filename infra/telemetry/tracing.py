"""Spans: where they come from and where they go.

OpenTelemetry's SDK, with a provider of our own and not the process's global one,
which vLLM may take. Environment variables of the OpenTelemetry standard hold where
the configuration says nothing: OTEL_EXPORTER_OTLP_* (endpoint, protocol, headers,
certificates, time-outs), OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_SDK_DISABLED.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError
from infra.telemetry.settings import TelemetrySection
from infra.telemetry.trace_context import Carrier

if TYPE_CHECKING:
    # The SDK is loaded only where something is traced.
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Span, SpanKind

DEFAULT_SAMPLING_RATIO = 0.01
# Some of what is recorded was written by clients.
_MAX_ATTRIBUTE_CHARS = 256
_HTTP_PATH = "/v1/traces"

_current: ContextVar["tuple[Tracing, Span] | None"] = ContextVar("current_span", default=None)


class Tracing:
    """Makes spans and exports them in the background."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("coterie")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def start(cls, section: TelemetrySection, part: str) -> "Tracing | None":
        """Tracing as configured; None where nothing says where traces should go.

        `part` (`gateway`, `engine`) ends the service's name. Raises ConfigError for
        a headers file that cannot be read.
        """
        if not is_traced(section):
            return None
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        provider = TracerProvider(
            sampler=_sampler(section),
            resource=_resource(section, part),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=_MAX_ATTRIBUTE_CHARS),
        )
        provider.add_span_processor(BatchSpanProcessor(_exporter(section)))
        return cls(provider)

    def span(
        self,
        name: str,
        kind: "SpanKind",
        *,
        carrier: Carrier | None = None,
        parent: "Span | None" = None,
        started_ns: int | None = None,
        linked: Sequence[Carrier] = (),
    ) -> "Span":
        """A new span below `parent`, or below what the carrier names.

        It records nothing unless it is sampled; ask `is_recording`. `started_ns` is
        in nanoseconds since the epoch, None for now. `linked` name spans of other traces
        that it has to do with.
        """
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import Link, get_current_span, set_span_in_context  # noqa: PLC0415

        context = Context()
        if parent is not None:
            context = set_span_in_context(parent, context)
        elif carrier is not None:
            context = self._propagator.extract(carrier, context)
        others = [self._propagator.extract(other, Context()) for other in linked]
        span: Span = self._tracer.start_span(
            name,
            context,
            kind,
            links=[Link(get_current_span(other).get_span_context()) for other in others],
            start_time=started_ns,
        )
        return span

    def carrier_of(self, span: "Span", received: Mapping[str, str] | None) -> Carrier:
        """What to send on so that spans elsewhere are children of this one.

        Baggage goes on as it was received.
        """
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        carrier: Carrier = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        if received is not None and "baggage" in received:
            carrier["baggage"] = received["baggage"]
        return carrier

    def close(self) -> None:
        """Export what is left; blocks for seconds where the receiver does not answer."""
        self._provider.shutdown()


@contextmanager
def as_current(tracing: Tracing, span: "Span") -> Iterator[None]:
    """Let `child_span` hang its spans below this one, in this task, inside the block."""
    token = _current.set((tracing, span))
    try:
        yield
    finally:
        _current.reset(token)


def begin_child(name: str) -> "Span | None":
    """A span below the current one, which its caller ends; None where nothing is traced."""
    current = _current.get()
    if current is None:
        return None
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    tracing, parent = current
    return tracing.span(name, SpanKind.INTERNAL, parent=parent)


@contextmanager
def child_span(name: str) -> "Iterator[Span | None]":
    """A span around the block where the task's request is traced; else nothing."""
    current, span = _current.get(), begin_child(name)
    if current is None or span is None:
        yield None
        return
    try:
        with as_current(current[0], span):
            yield span
    finally:
        span.end()


def is_traced(section: TelemetrySection) -> bool:
    """Configuration or environment name a receiver, and the environment allows it."""
    environment = os.environ
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if section.otlp_endpoint is not None:
        return True
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    is_off = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    return not is_off and any(environment.get(name) for name in names)


def _sampler(section: TelemetrySection) -> "Sampler | None":
    """None lets the SDK read OTEL_TRACES_SAMPLER."""
    from opentelemetry.sdk.trace import sampling  # noqa: PLC0415

    ratio = section.trace_sampling_ratio
    if ratio is None and os.environ.get("OTEL_TRACES_SAMPLER"):
        return None
    root = sampling.TraceIdRatioBased(DEFAULT_SAMPLING_RATIO if ratio is None else ratio)
    if section.trust_client_sampling:
        return sampling.ParentBased(root)
    return sampling.ParentBased(root, remote_parent_sampled=root)


def _resource(section: TelemetrySection, part: str) -> Any:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    name = os.environ.get("OTEL_SERVICE_NAME") or f"{section.service_name}-{part}"
    instance = f"{os.uname().nodename}-{os.getpid()}"
    return Resource.create({"service.name": name, "service.instance.id": instance})


def _exporter(section: TelemetrySection) -> "SpanExporter":
    """Exporters read what is None here from the environment."""
    endpoint, headers = section.otlp_endpoint, _headers(section.otlp_headers_file)
    if _protocol(section) == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as by_grpc  # noqa: PLC0415

        return by_grpc.OTLPSpanExporter(endpoint=endpoint, headers=headers)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as by_http  # noqa: PLC0415

    if endpoint is not None and not endpoint.endswith(_HTTP_PATH):
        endpoint = endpoint.rstrip("/") + _HTTP_PATH
    return by_http.OTLPSpanExporter(endpoint=endpoint, headers=headers)


def _protocol(section: TelemetrySection) -> str:
    if section.otlp_protocol is not None:
        return section.otlp_protocol
    named = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    return "grpc" if named.strip().lower() == "grpc" else "http"


def _headers(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"telemetry.otlp_headers_file: {error}") from error
    except UnicodeDecodeError:
        # Without what it holds, which is secret.
        raise ConfigError(f"telemetry.otlp_headers_file: {path} is not UTF-8 text") from None
    pairs = [line.partition("=") for line in lines if line.strip()]
    if any(not (name.strip() and sign) for name, sign, _ in pairs):
        raise ConfigError(f"telemetry.otlp_headers_file: {path} needs one name=value a line")
    return {name.strip().lower(): value.strip() for name, _, value in pairs}

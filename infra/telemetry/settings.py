"""The section of the configuration that says what is watched, and where it goes."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from infra.section import Section

Port = Annotated[int, Field(ge=1, le=65535)]

_TRACING_KEYS = {
    "otlp_endpoint",
    "otlp_protocol",
    "otlp_headers_file",
    "service_name",
}


class TelemetrySection(Section):
    """What is told of requests: traces, metrics, logs, usage records."""

    service_name: Annotated[str, Field(min_length=1, max_length=128)] = "coterie"
    """Name under which traces appear; `-gateway` or `-engine` follows it.
    OTEL_SERVICE_NAME replaces it as a whole."""

    otlp_endpoint: str | None = None
    """Where traces go by OTLP, such as `http://collector:4317`; `https://` for TLS.
    Without one OTEL_EXPORTER_OTLP_ENDPOINT counts, and without that nothing is
    traced."""

    otlp_protocol: Literal["grpc", "http"] | None = None
    """How they go. Default: what OTEL_EXPORTER_OTLP_PROTOCOL says, else `grpc`."""

    otlp_headers_file: Path | None = None
    """File with one `name=value` a line, sent with each export: a token, say."""

    trace_sampling_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of requests that is traced where the client has not decided. Default:
    what OTEL_TRACES_SAMPLER says, else 0.01."""

    trust_client_sampling: bool = True
    """Trace what a client's `traceparent` marks as sampled. If false, the ratio
    decides for those too; the trace id is the client's either way."""

    metrics: bool = True
    """Measure requests, and answer `/metrics` on the HTTP port."""

    metrics_port: Port | None = None
    """Port that answers `/metrics` instead, without TLS and keys. All gateway
    replicas of a node share it."""

    metrics_host: str = "127.0.0.1"
    """Address that `metrics_port` listens on."""

    max_tenant_labels: Annotated[int, Field(ge=0)] = 50
    """Tenants that metrics tell apart; those that come later count as `other`."""

    log_format: Literal["text", "json"] = "text"
    """`json`: one object a line in the replicas' log files, with all fields."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    access_log: bool = False
    """Log one record a request: who, which model, how it ended, tokens, times.
    Never prompts, outputs or keys."""

    usage_dir: Path | None = None
    """Directory on each node for usage records, one for each request that an
    engine worked on; `coterie usage` sums them up. They are written once a second: a
    gateway that is killed loses at most the last second's. Without a directory none
    are kept."""

    usage_max_file_bytes: Annotated[int, Field(ge=4096)] = 64 * 1024 * 1024
    """A file of usage records that has grown beyond this is followed by a new one;
    so is the file of a past day."""

    def tracing_arguments(self) -> dict[str, Any]:
        """What engine replicas need of it. They restart when their arguments change,
        so nothing else is among them."""
        return self.model_dump(mode="json", include=_TRACING_KEYS)

"""The spans of a request: an `Observer` that follows the GenAI conventions.

    chat MODEL                   gateway: from the door to the last delta
    ├── check                    fields, chat template
    │   └── tokenize
    ├── hold                     waiting for admission
    └── text_completion MODEL    engine replica: see `deployments.engine.traced_engine`
        ├── prefill
        └── decode

Names of attributes: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.
Prompts and outputs are never recorded. What is not sampled costs a span that
records nothing; no attribute is made for it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id

from deployments.gateway.decision_log import DecisionLog
from deployments.gateway.telemetry.observation import Observation
from deployments.types import Door, Sampling
from infra.telemetry.trace_context import TRACEPARENT
from infra.telemetry.tracing import Tracing, as_current, child_span
from router.explanation import Explanation

PROVIDER = "coterie"
# Of one request, and of one call.
_MAX_ROUTES = 8
_MAX_COSTS = 8
_WILDCARDS = frozenset({"0.0.0.0", "::", "[::]", ""})

_SAMPLING_ATTRIBUTES = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "seed": "gen_ai.request.seed",
}


class RequestSpans:
    """Starts a span for each request, tells the client of it, and ends it."""

    def __init__(
        self,
        tracing: Tracing,
        host: str,
        door_to_port: Mapping[Door, int],
        logs: Mapping[str, DecisionLog],
    ) -> None:
        """`logs` have each model's routing decisions."""
        self._tracing = tracing
        self._logs = logs
        # An address that stands for all of the machine's is nobody's.
        self._address = None if host in _WILDCARDS else host
        self._door_to_port = door_to_port

    def on_start(self, observation: Observation) -> None:
        """Start the span; the engine gets its context, the client its id."""
        options = observation.options
        # The model's name follows when it is known to be one.
        span = self._tracing.span(observation.operation, SpanKind.SERVER, carrier=options.trace)
        carrier = self._tracing.carrier_of(span, options.trace)
        observation.trace_id = format_trace_id(span.get_span_context().trace_id)
        if options.on_trace is not None:
            options.on_trace(carrier[TRACEPARENT])
        is_sampled = span.is_recording()
        observation.options = msgspec.structs.replace(
            options, trace=carrier if is_sampled else None
        )
        if is_sampled:
            observation.span = span
            span.set_attributes(self._request_attributes(observation))

    def on_checked(self, observation: Observation) -> None:
        """Note the names that are known by then."""
        span: Span | None = observation.span
        if span is None:
            return
        _name_model(span, observation)
        span.set_attribute("coterie.request.id", observation.request_id)

    def on_end(self, observation: Observation) -> None:
        """Add what came of it, and end the span."""
        span: Span | None = observation.span
        if span is None:
            return
        if observation.checked_s is None:
            _name_model(span, observation)
        self._add_hold(observation, span)
        self._add_routes(observation, span)
        span.set_attributes(_response_attributes(observation))
        if observation.error is not None:
            span.set_attribute("error.type", observation.error)
            if observation.outcome == "failed":
                span.set_status(StatusCode.ERROR, observation.error)
        if observation.first_s is not None:
            span.add_event("first_token", timestamp=_wall_ns(observation, observation.first_s))
        span.end()

    @contextmanager
    def around_check(self, observation: Observation) -> Iterator[None]:
        """A span around the checking of a traced request."""
        if observation.span is None:
            yield
            return
        with as_current(self._tracing, observation.span), child_span("check"):
            yield

    def _add_hold(self, observation: Observation, span: Span) -> None:
        if observation.checked_s is None or not observation.queue_s:
            return
        begun_s = observation.checked_s
        hold = self._tracing.span(
            "hold", SpanKind.INTERNAL, parent=span, started_ns=_wall_ns(observation, begun_s)
        )
        hold.end(_wall_ns(observation, begun_s + observation.queue_s))

    def _add_routes(self, observation: Observation, span: Span) -> None:
        """An event for each call, at the moment of its decision."""
        for log in self._logs.values():
            for call in log.explain(observation.request_id)[-_MAX_ROUTES:]:
                # A client may have used the id before.
                if call.decided_at_s >= observation.started_at_s:
                    at_ns = int(call.decided_at_s * 1e9)
                    span.add_event("route", _route_attributes(call), timestamp=at_ns)

    def _request_attributes(self, observation: Observation) -> dict[str, Any]:
        options = observation.options
        found = {
            "gen_ai.operation.name": observation.operation,
            "gen_ai.provider.name": PROVIDER,
            "server.port": self._door_to_port[options.door],
            "coterie.door": options.door,
            "coterie.tenant": options.tenant,
            "coterie.priority": options.priority,
        }
        if self._address is not None:
            found["server.address"] = self._address
        if observation.operation == "embeddings":
            return found
        found |= {"gen_ai.output.type": "text", "gen_ai.request.stream": options.stream}
        return found | _sampling_attributes(observation.sampling)


def _name_model(span: Span, observation: Observation) -> None:
    span.update_name(f"{observation.operation} {observation.model}")
    span.set_attribute("gen_ai.request.model", observation.model)


def _sampling_attributes(sampling: Sampling) -> dict[str, Any]:
    values = ((key, getattr(sampling, name)) for name, key in _SAMPLING_ATTRIBUTES.items())
    found = {key: value for key, value in values if value is not None}
    if sampling.n > 1:
        found["gen_ai.request.choice.count"] = sampling.n
    return found


def _response_attributes(observation: Observation) -> dict[str, Any]:
    found: dict[str, Any] = {"coterie.outcome": observation.outcome}
    if observation.checked_s is None:
        return found
    found |= {
        "gen_ai.response.id": observation.request_id,
        "gen_ai.response.model": observation.model,
        "gen_ai.usage.input_tokens": observation.num_prompt_tokens,
        "gen_ai.usage.output_tokens": observation.num_output_tokens,
        "gen_ai.usage.cache_read.input_tokens": observation.num_cached_tokens,
        "coterie.queue_s": observation.queue_s,
    }
    if observation.resumes:
        found["coterie.resume.outcomes"] = [each.outcome for each in observation.resumes]
        found["coterie.resume.pauses_s"] = [each.pause_s for each in observation.resumes]
    if observation.operation != "embeddings":
        found["gen_ai.response.finish_reasons"] = observation.finish_reasons
    if observation.ttft_s is not None:
        found["gen_ai.response.time_to_first_chunk"] = observation.ttft_s
    return found


def _route_attributes(call: Explanation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "coterie.route.replica": call.replica_id,
        "coterie.route.policy": call.policy,
        "coterie.route.applied": call.applied,
        "coterie.route.expected_cached_tokens": call.num_expected_cached_tokens,
        "coterie.route.costs": [
            f"{row.candidate.replica_id} {row.outcome} {row.cost:.0f}"
            for row in call.rows[:_MAX_COSTS]
        ],
    }
    if call.num_found_cached_tokens is not None:
        found["coterie.route.found_cached_tokens"] = call.num_found_cached_tokens
    return found


def _wall_ns(observation: Observation, moment_s: float) -> int:
    """A moment of the observation's clock, in nanoseconds since the epoch."""
    return int((observation.started_at_s + moment_s - observation.started_s) * 1e9)

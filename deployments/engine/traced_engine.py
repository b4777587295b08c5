"""A `CallRunner` around another one: spans of the calls that are traced.

    text_completion MODEL      or `embeddings MODEL`
    ├── prefill      submission to the first output, queueing in the engine included
    └── decode       first output to the last

A call without trace context is handed on untouched.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from opentelemetry.trace import Span, SpanKind, StatusCode

from deployments.engine.link_server import CallRunner
from deployments.types import Call, Delta
from infra.errors import CoterieError
from infra.telemetry.trace_context import is_sampled
from infra.telemetry.tracing import Tracing


class TracedEngine:
    """See the module. `host` is the address of the engine's node."""

    def __init__(self, engine: CallRunner, tracing: Tracing, model: str, host: str) -> None:
        self._engine = engine
        self._tracing = tracing
        self._model = model
        self._host = host

    def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """See `CallRunner.run`."""
        if call.trace is None or not is_sampled(call.trace):
            return self._engine.run(call)
        return self._traced(call)

    async def _traced(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        name = f"{_operation(call)} {self._model}"
        span = self._tracing.span(name, SpanKind.SERVER, carrier=call.trace)
        carrier = self._tracing.carrier_of(span, call.trace)
        progress = _Progress()
        outcome, error_kind = "aborted", None
        try:
            inner = self._engine.run(msgspec.structs.replace(call, trace=carrier))
            async with aclosing(inner) as deltas:
                async for delta, is_last in deltas:
                    progress.saw(delta)
                    yield delta, is_last
            outcome = "finished"
        except CoterieError as error:
            outcome, error_kind = "failed", error.kind
            raise
        finally:
            self._add_stages(span, progress)
            span.set_attributes(self._attributes(call, progress, outcome))
            if error_kind is not None:
                span.set_attribute("error.type", error_kind)
                span.set_status(StatusCode.ERROR, error_kind)
            span.end()

    def _add_stages(self, span: Span, progress: "_Progress") -> None:
        if not progress.num_output_tokens:
            return
        self._add_stage(span, "prefill", progress.started_ns, progress.first_ns)
        self._add_stage(span, "decode", progress.first_ns, progress.last_ns)

    def _add_stage(self, span: Span, name: str, started_ns: int, ended_ns: int) -> None:
        stage = self._tracing.span(name, SpanKind.INTERNAL, parent=span, started_ns=started_ns)
        stage.end(ended_ns)

    def _attributes(
        self, call: Call, progress: "_Progress", outcome: str
    ) -> dict[str, str | int]:
        found: dict[str, str | int] = {
            "gen_ai.operation.name": _operation(call),
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": self._model,
            "gen_ai.usage.input_tokens": len(call.token_ids),
            "gen_ai.usage.output_tokens": progress.num_output_tokens,
            "server.address": self._host,
            "coterie.request.id": call.request_id,
            "coterie.outcome": outcome,
        }
        if call.adapter is not None:
            found["coterie.adapter"] = call.adapter
        if call.delivered is not None:
            found["coterie.resume.delivered_tokens"] = len(call.delivered.token_ids)
        return found


def _operation(call: Call) -> str:
    """In the words of the GenAI conventions; a chat is a text like others by now."""
    return "text_completion" if call.pooling is None else "embeddings"


class _Progress:
    """When a call's outputs came, in nanoseconds since the epoch; 0 before them."""

    def __init__(self) -> None:
        self.started_ns = time.time_ns()
        self.first_ns = 0
        self.last_ns = 0
        self.num_output_tokens = 0

    def saw(self, delta: Delta) -> None:
        self.last_ns = time.time_ns()
        self.first_ns = self.first_ns or self.last_ns
        self.num_output_tokens += len(delta.token_ids)

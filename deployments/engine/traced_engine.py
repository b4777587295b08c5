"""A `CallRunner` around another one: spans of the calls that are traced.

    engine MODEL
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
        span = self._tracing.span(f"engine {self._model}", SpanKind.SERVER, carrier=call.trace)
        carrier = self._tracing.carrier_of(span, call.trace)
        started_ns = time.time_ns()
        first_ns = last_ns = 0
        num_tokens = 0
        try:
            inner = self._engine.run(msgspec.structs.replace(call, trace=carrier))
            async with aclosing(inner) as deltas:
                async for delta, is_last in deltas:
                    last_ns = time.time_ns()
                    first_ns = first_ns or last_ns
                    num_tokens += len(delta.token_ids)
                    yield delta, is_last
        except CoterieError as error:
            span.set_attribute("error.type", error.kind)
            span.set_status(StatusCode.ERROR, error.kind)
            raise
        finally:
            if call.stream and first_ns:
                self._child(span, "prefill", started_ns, first_ns)
                self._child(span, "decode", first_ns, last_ns)
            self._describe(span, call, num_tokens)
            span.end()

    def _child(self, span: Span, name: str, started_ns: int, ended_ns: int) -> None:
        child = self._tracing.span(name, SpanKind.INTERNAL, parent=span, started_ns=started_ns)
        child.end(ended_ns)

    def _describe(self, span: Span, call: Call, num_output_tokens: int) -> None:
        span.set_attributes(
            {
                "gen_ai.provider.name": "vllm",
                "gen_ai.request.model": self._model,
                "gen_ai.usage.input_tokens": len(call.token_ids),
                "gen_ai.usage.output_tokens": num_output_tokens,
                "coterie.request.id": call.request_id,
                "server.address": self._host,
            }
        )
        if call.adapter is not None:
            span.set_attribute("coterie.adapter", call.adapter)

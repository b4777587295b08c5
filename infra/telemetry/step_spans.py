"""Spans of an engine rank's steps, and of what a step waits for: some steps of all.

    step             below the span of a traced request; linked to the others' in the batch
    ├── dispatch     a layer's experts, where they are elsewhere
    └── draft        where drafts are proposed

A step belongs to its whole batch, and a second has many. So a step is recorded where a traced
request is in its batch, and none has been for `STEP_EVERY_S`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.telemetry.trace_context import Carrier
from infra.telemetry.tracing import Tracing, as_current

if TYPE_CHECKING:
    # The SDK is loaded only where something is traced.
    from opentelemetry.trace import Span

STEP_EVERY_S = 1.0

_MAX_LINKS = 32


class StepSpans:
    """Of one rank. For the thread that runs the model, no other."""

    def __init__(
        self, tracing: Tracing, rank: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tracing = tracing
        self._rank = rank
        self._clock = clock
        self._carriers: dict[str, Carrier] = {}
        """Of the traced requests that the engine has. Key: its own name for them."""
        self._span: Span | None = None
        self._next_s = -float("inf")

    def know(self, request: str, carrier: Carrier) -> None:
        """The engine has taken up this request, which is traced."""
        self._carriers[request] = carrier

    def forget(self, requests: Iterable[str]) -> None:
        """The engine has these no more, whether they were traced or not."""
        if self._carriers:
            for request in requests:
                self._carriers.pop(request, None)

    def begin(self, num_tokens: Mapping[str, int]) -> None:
        """A step begins, with so many tokens of each request. One that has not ended does."""
        self.end()
        if not self._carriers or self._clock() < self._next_s:
            return
        traced = [self._carriers[name] for name in num_tokens if name in self._carriers]
        if not traced:
            return
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        self._next_s = self._clock() + STEP_EVERY_S
        parent, *others = traced
        self._span = self._tracing.span(
            "step", SpanKind.INTERNAL, carrier=parent, linked=others[:_MAX_LINKS]
        )
        self._span.set_attributes(
            {
                "coterie.step.rank": self._rank,
                "coterie.step.sequences": len(num_tokens),
                "coterie.step.tokens": sum(num_tokens.values()),
            }
        )

    @contextmanager
    def within(self) -> Iterator[None]:
        """A part of the step: what hangs spans below the current one finds the step's."""
        if self._span is None:
            yield
            return
        with as_current(self._tracing, self._span):
            yield

    def end(self) -> None:
        """The step has ended, if one was recorded."""
        if self._span is not None:
            self._span.end()
            self._span = None

    def close(self) -> None:
        """Export what is left; blocks for seconds where the receiver does not answer."""
        self.end()
        self._tracing.close()

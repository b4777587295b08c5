"""The span of one layer's experts on expert hosts, in steps that are traced."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from deployments.experts.in_engine.client.stats import TierStats
from infra.telemetry.tracing import begin_child

if TYPE_CHECKING:
    # The SDK is loaded only where something is traced.
    from opentelemetry.trace import Span


@dataclass(frozen=True)
class DispatchSpan:
    """What the tier's counters grow by until the end becomes the span's attributes, under the
    counters' names."""

    _span: "Span"
    _before: dict[str, Any]

    @classmethod
    def begin(cls, layer: int, num_tokens: int, stats: TierStats) -> Self | None:
        """None where this step is not traced. `layer` is the transformer's."""
        span = begin_child("dispatch")
        if span is None:
            return None
        span.set_attributes(
            {"coterie.dispatch.layer": layer, "coterie.dispatch.tokens": num_tokens}
        )
        return cls(span, stats.as_dict())

    def end(self, stats: TierStats) -> None:
        """The layer's results are there."""
        for name, number in stats.as_dict().items():
            if (growth := number - self._before[name]) and name not in _OTHERWISE_TOLD:
                self._span.set_attribute(f"coterie.dispatch.{name}", growth)
        self._span.end()


_OTHERWISE_TOLD = frozenset({"num_layers", "num_tokens"})

"""What is counted of routing, for Prometheus: read from each model's decision log."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.gateway.decision_log import DecisionLog

DECISIONS = "coterie_routing_decisions_total"
EXPECTED = "coterie_expected_cached_prompt_tokens_total"
MISJUDGED = "coterie_misjudged_cached_prompt_tokens_total"

ROUTING_LABELS: Mapping[str, tuple[str, ...]] = {
    DECISIONS: ("model", "policy"),
    EXPECTED: ("model",),
    MISJUDGED: ("model", "error"),
}
"""The labels of each metric."""

DecisionLogs = Mapping[str, DecisionLog]
"""By model."""


class RoutingCounters(Collector):
    """Reads the counts when it is scraped."""

    def __init__(self, logs: DecisionLogs) -> None:
        self._logs = logs

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        decisions = _counter(DECISIONS, "Calls routed, by the policy that decided")
        expected = _counter(EXPECTED, "Prompt tokens that should have been cached where routed")
        misjudged = _counter(
            MISJUDGED, "Prompt tokens expected to be cached and not (missed), or the reverse"
        )
        for model, log in self._logs.items():
            counts = log.counts
            for policy, num in counts.decisions.items():
                decisions.add_metric((model, policy), num)
            expected.add_metric((model,), counts.num_expected_cached_tokens)
            misjudged.add_metric((model, "missed"), counts.num_missed_tokens)
            misjudged.add_metric((model, "unexpected"), counts.num_unexpected_tokens)
        return decisions, expected, misjudged


def _counter(name: str, words: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, words, labels=ROUTING_LABELS[name])

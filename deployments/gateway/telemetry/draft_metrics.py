"""What is told of speculation, for Prometheus: read from each model's totals."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.gateway.draft_totals import DraftTotals

_COUNTERS = {
    "coterie_drafts_total": "Drafts that engines have verified",
    "coterie_draft_tokens_total": "Tokens of these drafts",
    "coterie_draft_accepted_tokens_total": "Of these tokens, those that were accepted",
}

DRAFT_LABELS: Mapping[str, tuple[str, ...]] = dict.fromkeys(_COUNTERS, ("model",))
"""The labels of each metric."""

Drafts = Mapping[str, DraftTotals]
"""By model."""


class DraftMetrics(Collector):
    """Reads the numbers when it is scraped."""

    def __init__(self, drafts: Drafts) -> None:
        self._drafts = drafts

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        counters = [
            CounterMetricFamily(n, words, labels=["model"]) for n, words in _COUNTERS.items()
        ]
        for model, totals in self._drafts.items():
            total = totals.total
            counts = (total.num_drafts, total.num_tokens, total.num_accepted)
            for counter, count in zip(counters, counts, strict=True):
                counter.add_metric([model], count)
        return counters

"""What is told of the prefix index, for Prometheus: read from each model's mirror."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cache.mirror import Mirror
from deployments.gateway.prefix_index import PrefixIndex

_GAUGES = {
    "coterie_prefix_index_current": "1 where the index follows the store",
    "coterie_prefix_index_blocks": "Blocks in this gateway's copy of the index",
    "coterie_prefix_index_bytes": "Memory of that copy",
    "coterie_prefix_index_lag_seconds": "Since the copy had all that was told to the store",
}
_COUNTERS = {
    "coterie_prefix_index_applied_blocks_total": "Blocks stored and removed that were told",
    "coterie_prefix_index_gaps_total": "Times that something told was missed",
    "coterie_prefix_index_reloads_total": "Times that the whole index was read anew",
    "coterie_prefix_index_evicted_blocks_total": "Blocks that the copy had no room for",
    "coterie_prefix_index_failures_total": "Times that the store was away, or refused",
}

INDEX_LABELS: Mapping[str, tuple[str, ...]] = dict.fromkeys(_GAUGES | _COUNTERS, ("model",))
"""The labels of each metric."""

Indexes = Mapping[str, PrefixIndex]
"""By model."""


class IndexMetrics(Collector):
    """Reads the numbers when it is scraped."""

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        gauges = [GaugeMetricFamily(n, words, labels=["model"]) for n, words in _GAUGES.items()]
        counters = [
            CounterMetricFamily(n, words, labels=["model"]) for n, words in _COUNTERS.items()
        ]
        for model, index in self._indexes.items():
            mirror = index.mirror
            if mirror is not None:
                for gauge, value in zip(gauges, _levels(mirror), strict=True):
                    gauge.add_metric([model], value)
                for counter, count in zip(counters, _counts(mirror), strict=True):
                    counter.add_metric([model], count)
        return [*gauges, *counters]


def _levels(mirror: Mirror) -> tuple[float, ...]:
    is_current = float(mirror.state == "current")
    return is_current, mirror.num_blocks, mirror.num_bytes, mirror.lag_s


def _counts(mirror: Mirror) -> tuple[int, ...]:
    counts = mirror.counts
    told = (counts.applied_blocks, counts.gaps, counts.reloads)
    return *told, mirror.num_evicted, counts.failures

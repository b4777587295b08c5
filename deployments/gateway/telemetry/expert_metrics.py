"""What is told of expert hosts, for Prometheus: as their directors last said."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from experts.director.types import State

_GAUGES: Mapping[str, str] = {
    "coterie_expert_hosts": "Expert hosts that have reported",
    "coterie_expert_slots": "Slots of all expert hosts, over all layers",
    "coterie_expert_copies": "Copies of experts that are ready to compute",
    "coterie_expert_missing": "Experts without a copy, over all layers",
    "coterie_expert_busy_ratio": "Mean share of time that expert hosts compute",
    "coterie_expert_wait_seconds": "Mean wait of a request for an expert host",
    "coterie_expert_tokens_per_second": "Tokens computed, counted once for each expert",
}
_STATE = "coterie_expert_director_state"

EXPERT_LABELS: Mapping[str, tuple[str, ...]] = dict.fromkeys(_GAUGES, ("model",)) | {
    _STATE: ("model", "state")
}
"""The labels of each metric."""

Latest = Callable[[], Mapping[str, Mapping[str, Any]]]
"""By model, what `experts.director.status.status_of` says."""


class ExpertMetrics(Collector):
    """Reads the numbers when it is scraped."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        gauges = [GaugeMetricFamily(n, words, labels=["model"]) for n, words in _GAUGES.items()]
        states = GaugeMetricFamily(
            _STATE, "1 for what the director does", labels=["model", "state"]
        )
        for model, tier in self._latest().items():
            for gauge, value in zip(gauges, _levels(tier), strict=True):
                gauge.add_metric([model], value)
            for state in get_args(State):
                states.add_metric([model, state], float(tier["state"] == state))
        return [*gauges, states]


def _levels(tier: Mapping[str, Any]) -> tuple[float, ...]:
    hosts = tier["hosts"]
    missing = sum(count == 0 for row in tier["num_copies"] for count in row)
    return (
        len(hosts),
        tier["num_slots"] * tier["num_layers"],
        sum(host["num_copies"] for host in hosts),
        missing,
        _mean(host["busy_share"] for host in hosts),
        _mean(host["queue_s"] for host in hosts),
        sum(sum(row) for row in tier["tokens_per_s"]),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0

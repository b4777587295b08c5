"""What is measured of requests, for Prometheus.

Labels are bounded: models are those that are served (anything else a client writes
counts as `unknown`), tenants are told apart up to a number and are `other` beyond.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.gateway.resume import Resume
from deployments.gateway.telemetry.draft_metrics import DRAFT_LABELS, DraftMetrics, Drafts
from deployments.gateway.telemetry.expert_metrics import EXPERT_LABELS, ExpertMetrics, Latest
from deployments.gateway.telemetry.index_metrics import INDEX_LABELS, Indexes, IndexMetrics
from deployments.gateway.telemetry.observation import Observation
from deployments.gateway.telemetry.routing_counters import (
    ROUTING_LABELS,
    DecisionLogs,
    RoutingCounters,
)
from deployments.types import ModelCard

OTHER_TENANTS = "other"
OPEN = "coterie_open_requests"
READY = "coterie_ready_engine_replicas"
SLEEPS = "coterie_scales_to_zero"
HELD = "coterie_held_requests"
LOST = "coterie_usage_records_lost_total"

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80)
_LONG_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
_PAUSE_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
_QUEUE_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)

Held = Callable[[], Mapping[str, int]]
"""Requests that wait for admission, by model."""


class TenantLabels:
    """Label values of tenants: the first `max_labels` that come have their own."""

    def __init__(self, max_labels: int) -> None:
        self._max_labels = max_labels
        self._known: set[str] = set()

    def label(self, tenant: str) -> str:
        """The tenant's name, or `other`."""
        if tenant in self._known:
            return tenant
        if len(self._known) >= self._max_labels:
            return OTHER_TENANTS
        self._known.add(tenant)
        return tenant


class _ModelSeries(NamedTuple):
    """The series that only a model's name tells apart."""

    ttft: Histogram
    tpot: Histogram
    gap: Histogram
    duration: Histogram
    open: Gauge


class _TenantSeries(NamedTuple):
    """The series of one model and one tenant."""

    queue: Histogram
    prompt: Counter
    cached: Counter
    output: Counter


class GatewayMetrics:
    """An `Observer` that counts and times requests."""

    def __init__(self, max_tenant_labels: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._tenants = TenantLabels(max_tenant_labels)
        self._by_model: dict[str, _ModelSeries] = {}
        self._by_tenant: dict[tuple[str, str], _TenantSeries] = {}
        self._children: dict[tuple[Counter, tuple[str, ...]], Counter] = {}
        self._described: dict[str, tuple[str, ...]] = {}
        self._make_latencies()
        self._make_counters()

    def _make_latencies(self) -> None:
        self._ttft = self._histogram(
            "time_to_first_token", "Start of a streamed request to its first output", _TTFT_S
        )
        self._tpot = self._histogram(
            "time_per_output_token", "Mean of a streamed request after its first", _SHORT_S
        )
        self._gap = self._histogram(
            "inter_token_latency", "Between two deltas of a streamed request", _SHORT_S
        )
        self._duration = self._histogram("request_duration", "Start to end", _LONG_S)
        self._pause = self._histogram(
            "resume_pause", "Loss of an engine replica until the output went on", _PAUSE_S
        )
        self._queue = self._histogram(
            "request_queue", "Held before an engine replica took it", _QUEUE_S, "tenant"
        )

    def _make_counters(self) -> None:
        of_tenant = ("model", "tenant")
        self._requests = self._counter(
            "requests", "Requests that ended", *of_tenant, "door", "outcome"
        )
        self._errors = self._counter(
            "errors", "Requests that an error ended", "kind", "model", "door"
        )
        self._answers = self._counter(
            "error_answers", "Errors that clients got, of any call", "kind", "transport"
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens", *of_tenant)
        self._cached = self._counter(
            "cached_prompt_tokens", "Prompt tokens from the prefix cache", *of_tenant
        )
        self._output = self._counter("output_tokens", "Output tokens", *of_tenant)
        self._finish = self._counter(
            "finished_outputs", "Outputs by how they ended", "model", "reason"
        )
        self._resumes = self._counter(
            "resumes", "Losses of engine replicas by what came of them", "model", "outcome"
        )
        self._described[OPEN] = ("model",)
        self._open = Gauge(
            OPEN,
            "Requests that have been checked and have not ended",
            ("model",),
            registry=self.registry,
        )

    def on_start(self, _: Observation) -> None:
        """Nothing is known of it that may be a label."""

    def on_checked(self, observation: Observation) -> None:
        """Count it as open."""
        series = self._series_of_model(observation.model)
        series.open.inc()
        if observation.is_streamed and observation.sampling.n == 1:
            observation.on_gap = series.gap.observe

    def on_end(self, observation: Observation) -> None:
        """Count and time it."""
        is_checked = observation.checked_s is not None
        model = observation.model
        tenant = self._tenants.label(observation.options.tenant)
        outcome, door = str(observation.outcome), observation.options.door
        self._count(self._requests, model, tenant, door, outcome)
        if observation.error is not None:
            self._count(self._errors, observation.error, model, door)
        if is_checked:
            self._series_of_model(model).open.dec()
            for resume in observation.resumes:
                self._add_resume(resume, model)
            if observation.is_used:
                self._add_work(observation, model, tenant)

    def count_answer(self, kind: str, transport: str) -> None:
        """Count an error that a door answers; see `error_feed`."""
        self._count(self._answers, kind, transport)

    def described(self) -> dict[str, tuple[str, ...]]:
        """Names of all metrics as they are exported, and their labels."""
        return dict(self._described)

    def add_states(self, cards: Callable[[], Iterable[ModelCard]], held: Held | None) -> None:
        """Gauges of what is at the moment of a scrape."""
        self._described |= {READY: ("model",), SLEEPS: ("model",)}
        if held:
            self._described[HELD] = ("model",)
        self.registry.register(_States(cards, held))

    def add_routing(self, logs: DecisionLogs) -> None:
        """Count routing decisions, and how right their predictions were."""
        self._described |= ROUTING_LABELS
        self.registry.register(RoutingCounters(logs))

    def add_indexes(self, indexes: Indexes) -> None:
        """Tell of this gateway's copies of the prefix index."""
        self._described |= INDEX_LABELS
        self.registry.register(IndexMetrics(indexes))

    def add_experts(self, latest: Latest) -> None:
        """Tell of the expert hosts of models that have them."""
        self._described |= EXPERT_LABELS
        self.registry.register(ExpertMetrics(latest))

    def add_drafts(self, drafts: Drafts) -> None:
        """Count what becomes of the drafts of models that have speculation."""
        self._described |= DRAFT_LABELS
        self.registry.register(DraftMetrics(drafts))

    def add_losses(self, num_lost: Callable[[], int]) -> None:
        """Count the usage records that could not be kept."""
        self._described[LOST] = ()
        self.registry.register(_Losses(num_lost))

    def _add_work(self, observation: Observation, model: str, tenant: str) -> None:
        series, used = self._series_of_model(model), self._series_of_tenant(model, tenant)
        if observation.outcome == "finished":
            series.duration.observe(observation.duration_s)
        if (ttft_s := observation.ttft_s) is not None:
            series.ttft.observe(ttft_s)
        if (tpot_s := observation.tpot_s) is not None:
            series.tpot.observe(tpot_s)
        used.queue.observe(observation.queue_s)
        used.prompt.inc(observation.num_prompt_tokens)
        used.cached.inc(observation.num_cached_tokens)
        used.output.inc(observation.num_output_tokens)
        for reason in observation.finish_reasons:
            self._count(self._finish, model, reason)

    def _add_resume(self, resume: Resume, model: str) -> None:
        self._count(self._resumes, model, resume.outcome)
        if resume.is_success:
            self._pause.labels(model).observe(resume.pause_s)

    def _count(self, counter: Counter, *labels: str) -> None:
        # `labels()` takes a lock and makes strings; a dictionary does neither.
        child = self._children.get((counter, labels))
        if child is None:
            child = self._children[counter, labels] = counter.labels(*labels)
        child.inc()

    def _series_of_model(self, model: str) -> _ModelSeries:
        series = self._by_model.get(model)
        if series is None:
            series = _ModelSeries(
                ttft=self._ttft.labels(model),
                tpot=self._tpot.labels(model),
                gap=self._gap.labels(model),
                duration=self._duration.labels(model),
                open=self._open.labels(model),
            )
            self._by_model[model] = series
        return series

    def _series_of_tenant(self, model: str, tenant: str) -> _TenantSeries:
        series = self._by_tenant.get((model, tenant))
        if series is None:
            series = _TenantSeries(
                queue=self._queue.labels(model, tenant),
                prompt=self._prompt.labels(model, tenant),
                cached=self._cached.labels(model, tenant),
                output=self._output.labels(model, tenant),
            )
            self._by_tenant[model, tenant] = series
        return series

    def _histogram(
        self, name: str, words: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        full, all_labels = f"coterie_{name}_seconds", ("model", *labels)
        self._described[full] = all_labels
        return Histogram(full, words, all_labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        self._described[f"coterie_{name}_total"] = labels
        return Counter(f"coterie_{name}", words, labels, registry=self.registry)


class _States(Collector):
    """Gauges that are read, not kept."""

    def __init__(self, cards: Callable[[], Iterable[ModelCard]], held: Held | None) -> None:
        self._cards = cards
        self._held = held

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        ready = GaugeMetricFamily(
            READY,
            "Engine replicas that this gateway has a link to",
            labels=("model",),
        )
        sleeps = GaugeMetricFamily(
            SLEEPS, "1 where there may be no engine until a request comes", labels=("model",)
        )
        for card in self._cards():
            if card.base_model is None:
                ready.add_metric((card.name,), card.num_ready_replicas)
                sleeps.add_metric((card.name,), float(card.scales_to_zero))
        yield ready
        yield sleeps
        if self._held is not None:
            held = GaugeMetricFamily(
                HELD, "Requests that wait for admission", labels=("model",)
            )
            for model, num in self._held().items():
                held.add_metric((model,), num)
            yield held


class _Losses(Collector):
    """Reads a count that something else keeps."""

    def __init__(self, num_lost: Callable[[], int]) -> None:
        self._num_lost = num_lost

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        words = "Usage records that the disk did not take in time"
        yield CounterMetricFamily(LOST, words, self._num_lost())

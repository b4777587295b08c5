"""What samples add up to: pure functions."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coterie.benchmark.types import Sample


@dataclass(frozen=True, slots=True)
class Spread:
    """How values lie; seconds, where they are times."""

    mean: float
    median: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Slo:
    """Service-level objective of one request, in seconds; None asks for nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A load as a whole. Times in seconds; a spread is None where nothing was measured.

    Times, tokens and requests per second are those of requests that succeeded.
    `goodput_requests_per_s` counts those that met the SLO; None without one.
    `errors` gives the number of failures of each kind. `max_late_s` is how far the
    client fell behind the arrivals at most.
    """

    num_requests: int
    num_failed: int
    duration_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    goodput_requests_per_s: float | None
    ttft_s: Spread | None
    tpot_s: Spread | None
    itl_s: Spread | None
    e2e_s: Spread | None
    errors: dict[str, int]
    max_late_s: float


def summarize(samples: Sequence[Sample], slo: Slo) -> Summary:
    """The summary of a load; its duration runs from the first sending to the last end."""
    done = [sample for sample in samples if sample.failure is None]
    duration_s = _duration_s(samples)
    num_output_tokens = sum(s.num_output_tokens for s in done)
    is_bound = slo != Slo()
    num_good = sum(meets(sample, slo) for sample in done)
    return Summary(
        num_requests=len(samples),
        num_failed=len(samples) - len(done),
        duration_s=duration_s,
        num_prompt_tokens=sum(s.num_prompt_tokens for s in done),
        num_output_tokens=num_output_tokens,
        num_cached_tokens=sum(s.num_cached_tokens for s in done),
        requests_per_s=_rate(len(done), duration_s),
        output_tokens_per_s=_rate(num_output_tokens, duration_s),
        goodput_requests_per_s=_rate(num_good, duration_s) if is_bound else None,
        ttft_s=spread_of(s.ttft_s for s in done),
        tpot_s=spread_of(s.tpot_s for s in done),
        itl_s=spread_of(gap for s in done for gap in s.itl_s),
        e2e_s=spread_of(s.e2e_s for s in done),
        errors=dict(Counter(s.failure.kind for s in samples if s.failure).most_common()),
        max_late_s=max((s.late_s for s in samples), default=0.0),
    )


def meets(sample: Sample, slo: Slo) -> bool:
    """Whether a request met the SLO. One failed, or without output, did not; one of
    a single token has no TPOT and meets any."""
    if sample.failure is not None or sample.ttft_s is None:
        return False
    is_early = slo.ttft_s is None or sample.ttft_s <= slo.ttft_s
    is_steady = slo.tpot_s is None or (sample.tpot_s or 0.0) <= slo.tpot_s
    return is_early and is_steady


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """How the values that are there lie; None if there are none."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    return Spread(
        mean=math.fsum(ordered) / len(ordered),
        median=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The percentile of ascending values, linear between neighbours (Hyndman and
    Fan's type 7, numpy's default): of 0 and 10 the 90th is 9.

    `ordered` holds at least one value, `percent` lies in [0, 100].
    """
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    share = position - below
    return ordered[below] + (ordered[above] - ordered[below]) * share


def _duration_s(samples: Sequence[Sample]) -> float:
    if not samples:
        return 0.0
    end_s = max(sample.sent_s + sample.e2e_s for sample in samples)
    return end_s - min(sample.sent_s for sample in samples)


def _rate(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0

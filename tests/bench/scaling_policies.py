"""What an autoscaling policy makes of a load: how long requests wait, and what that costs.

Recorded requests are served by a fleet of simulated engines (`tests.bench.simulated_engines`).
How many there are is decided each second by a policy, under Serve's own rules of delays and
limits; an engine that is wanted serves `--start` seconds later. One policy after the other:

    coterie          the policy that engines are deployed with
    no_look_ahead    the same without its trend
    serve            Serve's own, by requests under way, of which it aims at as many a replica
                     as `coterie`, with the same delays
    serve_defaults   Serve's own where nothing is said: 2 requests a replica, its own delays
    fixed            as many as `coterie` had on the average, rounded up

    python -m tests.bench.scaling_policies TRACE --json build/scaling.json

TRACE is what `coterie bench --trace` reads (`coterie.benchmark.trace`). With `--times` each
request comes so often, within some seconds of when it was recorded; with `--day` the load rises
and falls once, between a fifth of that and all. A request waits for a place, of which an engine
has `max_num_seqs`, and goes to the engine with the fewest prompt tokens to compute, then with
the fewest sequences. What is printed are medians of runs whose chance is another.
"""

import argparse
import json
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from ray.serve.autoscaling_policy import (
    _apply_autoscaling_config,
    replica_queue_length_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext
from rich.console import Console
from rich.table import Table

from coterie.benchmark.summary import percentile
from coterie.benchmark.trace import TraceRequest, read_trace
from coterie.errors import ConfigError
from deployments.engine.autoscaling import HELD, START, EngineScalingPolicy
from router.scaling.engine_demand import EngineSignals
from router.scaling.settings import EngineScalingSection
from tests.bench.simulated_engines import Pace, Request, SimulatedEngine
from tests.builders.scaling_context import scaling_context

_LEAST_OF_A_DAY = 0.2
_PARTS = 4
"""Of a second, after which places that have become free are taken."""
_ASIDE_S = 5.0
"""How far a request that comes several times is from when it was recorded."""
_TAIL_S = 600.0
"""What has not been answered so long after the last has come fails the run."""
_TARGETS = EngineScalingSection()

Decide = Callable[[AutoscalingContext], tuple[float, dict[str, Any]]]


@dataclass(frozen=True)
class Policy:
    """How many replicas, and how quickly."""

    name: str
    decide: Callable[[Pace, Callable[[], float]], Decide]
    """Made anew for a run, with its clock."""
    upscale_delay_s: float = _TARGETS.upscale_delay_s
    downscale_delay_s: float = _TARGETS.downscale_delay_s
    at_first: int | None = None
    """Default: as all others."""
    serves_requests: float = 0.0
    """Serve's target of requests a replica."""


@dataclass(frozen=True)
class Limits:
    """Of the fleet of each policy, where it has none of its own."""

    pace: Pace
    start_s: float
    at_first: int
    most: int


@dataclass(frozen=True)
class Result:
    """Of one policy. A wait is what the first token took, less what the prompt alone takes."""

    policy: str
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    late_share: float
    """Waits over the target of one second."""
    mean_replicas: float
    """Those that start and drain among them."""
    max_replicas: int
    num_started: int


class Fleet:
    """The engines of one model."""

    def __init__(self, pace: Pace, start_s: float, at_first: int) -> None:
        self._pace, self._start_s = pace, start_s
        self.engines = [SimulatedEngine(pace, ready_s=0.0) for _ in range(at_first)]
        self.num_started = 0
        self.held: deque[Request] = deque()
        """They wait for a place."""

    def ready(self, now_s: float) -> list[SimulatedEngine]:
        """Those that serve."""
        return [e for e in self.engines if e.ready_s <= now_s and not e.drains]

    def num_wanted(self) -> int:
        """Those that serve, or will."""
        return sum(not each.drains for each in self.engines)

    def resize(self, now_s: float, wanted: int) -> None:
        """Start more, or let some go: first those that do not serve yet, then the idlest."""
        for _ in range(wanted - self.num_wanted()):
            self.engines.append(SimulatedEngine(self._pace, now_s + self._start_s))
            self.num_started += 1
        going = sorted(
            (each for each in self.engines if not each.drains),
            key=lambda each: (each.ready_s <= now_s, each.num_sequences),
        )
        for engine in going[: self.num_wanted() - wanted]:
            engine.drains = True

    def sweep(self) -> None:
        """Forget those that have nothing left to do."""
        self.engines = [e for e in self.engines if e.num_sequences or not e.drains]

    def advance(self, now_s: float) -> None:
        """All of them."""
        for engine in self.engines:
            engine.advance(now_s)

    def dispatch(self, now_s: float) -> None:
        """Those that are held, each to the engine with the least to do that has a place."""
        places = self._pace.max_num_seqs
        while self.held:
            free = [each for each in self.ready(now_s) if each.num_sequences < places]
            if not free:
                return
            best = min(free, key=lambda each: (each.queued_tokens, each.num_sequences))
            best.add(now_s, self.held.popleft())


class Signals:
    """What replicas have told, averaged over a short while as Serve does."""

    def __init__(self, look_back_s: float) -> None:
        self._look_back_s = look_back_s
        self._told: dict[SimulatedEngine, deque[tuple[float, EngineSignals]]] = {}
        self._held: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, engines: Sequence[SimulatedEngine], num_held: int) -> None:
        """Ask each."""
        self._held.append((now_s, num_held))
        while self._held[0][0] <= now_s - self._look_back_s:
            self._held.popleft()
        self._told = {each: self._told.get(each, deque()) for each in engines}
        for engine, told in self._told.items():
            told.append((now_s, engine.signals(now_s)))
            while told[0][0] <= now_s - self._look_back_s:
                told.popleft()

    def mean_held(self) -> float:
        """Requests without a place."""
        return sum(count for _, count in self._held) / len(self._held)

    def means(self) -> list[EngineSignals]:
        """One of each replica."""
        return [_mean([signals for _, signals in told]) for told in self._told.values()]


def _mean(told: Sequence[EngineSignals]) -> EngineSignals:
    return EngineSignals(*(sum(values) / len(told) for values in zip(*told, strict=True)))


def simulate(policy: Policy, requests: Sequence[Request], limits: Limits) -> Result:
    """Serve all, in the order in which they come."""
    now_s = 0.0
    config = AutoscalingConfig(
        min_replicas=1,
        max_replicas=limits.most,
        upscale_delay_s=policy.upscale_delay_s,
        downscale_delay_s=policy.downscale_delay_s,
        target_ongoing_requests=policy.serves_requests or None,
    )
    decide = _apply_autoscaling_config(policy.decide(limits.pace, lambda: now_s))
    fleet = Fleet(limits.pace, limits.start_s, policy.at_first or limits.at_first)
    signals = Signals(_TARGETS.look_back_period_s)
    pending = deque(requests)
    state: dict[str, Any] = {}
    counts: list[int] = []
    ended_s = requests[-1].arrived_s
    with patch("ray.serve.autoscaling_policy.time.time", lambda: now_s):
        while pending or fleet.held or any(each.num_sequences for each in fleet.engines):
            if now_s > ended_s + _TAIL_S:
                raise RuntimeError(f"{policy.name}: requests are left after {now_s:.0f} s")
            _second(fleet, pending, now_s)
            now_s += 1.0
            ready = fleet.ready(now_s)
            signals.note(now_s, ready, len(fleet.held))
            context = _context(signals, len(ready), fleet.num_wanted(), limits.start_s)
            context.config, context.policy_state = config, state
            wanted, state = decide(context)
            fleet.resize(now_s, min(max(wanted, 1), limits.most))
            if now_s <= ended_s:
                counts.append(len(fleet.engines))
    waits = sorted(request.ttft_s - limits.pace.alone_s(request) for request in requests)
    return Result(
        policy=policy.name,
        wait_p50_s=round(percentile(waits, 50), 3),
        wait_p95_s=round(percentile(waits, 95), 3),
        wait_p99_s=round(percentile(waits, 99), 3),
        late_share=round(sum(wait > _TARGETS.target_wait_s for wait in waits) / len(waits), 4),
        mean_replicas=round(sum(counts) / len(counts), 2),
        max_replicas=max(counts),
        num_started=fleet.num_started,
    )


def _second(fleet: Fleet, pending: deque[Request], now_s: float) -> None:
    for part in range(1, _PARTS + 1):
        until_s = now_s + part / _PARTS
        while pending and pending[0].arrived_s <= until_s:
            arrived_s = pending[0].arrived_s
            fleet.held.append(pending.popleft())
            fleet.advance(arrived_s)
            fleet.dispatch(arrived_s)
        fleet.advance(until_s)
        fleet.dispatch(until_s)
    fleet.sweep()


def _context(
    signals: Signals, num_ready: int, num_wanted: int, start_s: float
) -> AutoscalingContext:
    means, num_held = signals.means(), signals.mean_held()
    names = [f"replica-{number}" for number in range(len(means))]
    metrics = {
        field: dict(zip(names, (getattr(each, field) for each in means), strict=True))
        for field in EngineSignals._fields
    }
    metrics |= {HELD: dict.fromkeys(names, num_held), START: dict.fromkeys(names, start_s)}
    context = scaling_context(
        num_ready, metrics, num_held + sum(e.num_sequences for e in means)
    )
    context.target_num_replicas = num_wanted
    return context


def _ours(**changes: Any) -> Callable[[Pace, Callable[[], float]], Decide]:
    targets: dict[str, Any] = _TARGETS.model_copy(update=changes).model_dump(mode="json")
    return lambda pace, clock: EngineScalingPolicy(pace.max_num_seqs, targets, clock)


def _serves(_pace: Pace, _clock: Callable[[], float]) -> Decide:
    found: Decide = replica_queue_length_autoscaling_policy
    return found


def _fixed(count: int) -> Policy:
    return Policy("fixed", lambda _pace, _clock: lambda _context: (count, {}), at_first=count)


def compare(requests: Sequence[Request], limits: Limits) -> list[Result]:
    """All policies, each with requests of its own."""
    sequences = limits.pace.max_num_seqs * _TARGETS.target_occupancy
    policies = [
        Policy("coterie", _ours()),
        Policy("no_look_ahead", _ours(look_ahead=False)),
        Policy("serve", _serves, serves_requests=sequences),
        Policy("serve_defaults", _serves, 30.0, 600.0, serves_requests=2.0),
    ]
    found = [_timed(policy, requests, limits) for policy in policies]
    fixed = _fixed(math.ceil(found[0].mean_replicas))
    return [*found, _timed(fixed, requests, limits)]


def _timed(policy: Policy, requests: Sequence[Request], limits: Limits) -> Result:
    began_s = time.monotonic()
    found = simulate(policy, [replace(each) for each in requests], limits)
    took_s = time.monotonic() - began_s
    print(f"{policy.name}: simulated in {took_s:.0f} s", file=sys.stderr, flush=True)
    return found


def multiplied(requests: Sequence[Request], times: int, seed: int) -> list[Request]:
    """Each so often, at about its time."""
    dice = random.Random(seed)
    found = [
        replace(each, arrived_s=max(0.0, each.arrived_s + dice.uniform(-_ASIDE_S, _ASIDE_S)))
        for each in requests
        for _ in range(times)
    ]
    return sorted(found, key=lambda each: each.arrived_s)


def like_a_day(requests: Sequence[Request], seed: int) -> list[Request]:
    """Few at first and at the end, most in the middle."""
    dice, whole_s = random.Random(seed), requests[-1].arrived_s
    found = []
    for request in requests:
        height = (1 - math.cos(2 * math.pi * request.arrived_s / whole_s)) / 2
        if dice.random() < _LEAST_OF_A_DAY + (1 - _LEAST_OF_A_DAY) * height:
            found.append(request)
    return found


def _load(recorded: Sequence[TraceRequest], times: int, day: bool, seed: int) -> list[Request]:
    requests = [
        Request(each.at_s, each.num_prompt_tokens, each.num_output_tokens) for each in recorded
    ]
    if times > 1:
        requests = multiplied(requests, times, seed)
    return like_a_day(requests, seed) if day else requests


def _medians(results: Sequence[Result]) -> Result:
    """Of one policy's runs, each number by itself."""
    rows = [asdict(each) for each in results]
    numbers = {
        name: round(median(row[name] for row in rows), 4)
        for name in rows[0]
        if name != "policy"
    }
    return Result(policy=rows[0]["policy"], **numbers)


def table(results: Sequence[Result]) -> Table:
    """For people."""
    found = Table(
        *("POLICY", "WAIT P50", "P95", "P99", "OVER 1 S", "REPLICAS", "MOST", "STARTED"),
        box=None,
    )
    for each in results:
        found.add_row(
            each.policy,
            *(f"{s:.2f} s" for s in (each.wait_p50_s, each.wait_p95_s, each.wait_p99_s)),
            f"{each.late_share:.1%}",
            f"{each.mean_replicas:.2f}",
            str(each.max_replicas),
            str(each.num_started),
        )
    return found


def main() -> None:
    """Print a table of medians, and write all that was found to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--times", type=int, default=1, metavar="N", help="(1)")
    parser.add_argument("--day", action="store_true", help="let the load rise and fall")
    parser.add_argument("--seed", type=int, default=1, help="of both, in the first run (1)")
    parser.add_argument("--runs", type=int, default=5, help="with seeds of their own (5)")
    parser.add_argument("--start", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--at-first", type=int, default=4, metavar="N", help="replicas (4)")
    parser.add_argument("--most", type=int, default=16, metavar="N", help="replicas (16)")
    parser.add_argument(
        "--prefill-speed", type=float, default=8000.0, metavar="N", help="tokens/s (8000)"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    try:
        recorded = read_trace(given.trace)
    except ConfigError as error:
        parser.error(str(error))
    limits = Limits(Pace(given.prefill_speed), given.start, given.at_first, given.most)
    runs = [
        compare(_load(recorded, given.times, given.day, seed), limits)
        for seed in range(given.seed, given.seed + given.runs)
    ]
    medians = [_medians(of_policy) for of_policy in zip(*runs, strict=True)]
    Console().print(table(medians))
    if given.json:
        settings = {
            "trace": given.trace.name,
            "times": given.times,
            "day": given.day,
            "seed": given.seed,
            "limits": asdict(limits) | {"pace": limits.pace._asdict()},
            "targets": _TARGETS.model_dump(mode="json"),
        }
        found = {
            "settings": settings,
            "medians": [asdict(each) for each in medians],
            "runs": [[asdict(each) for each in results] for results in runs],
        }
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Expert hosts that are killed and stopped under load: what the streams see of it.

    python -m tests.bench.big_moe build/small-moe --hidden 512 --layers 8 --expert-size 512 \\
        --shared-size 512
    python -m tests.bench.expert_failures build/small-moe \\
        --json tests/bench/results/expert_failures.json

Three hosts hold two copies of each expert. Under a steady load of 16 greedy streams a host is
killed (SIGKILL) or stopped (SIGSTOP, and woken after three seconds), in turn. A killed
one is replaced. What each prompt is answered is compared with an engine that has its experts
itself; in float32, where the order of sums cannot turn a near tie.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experts.settings import RebalanceSection
from tests.builders.expert_load import Load, LoadedEngine, Said
from tests.builders.expert_tier import LocalTier, local_tier

LOAD = Load(num_prompts=50, num_tokens=64, max_token=32_000)
_BEFORE_S, _STOPPED_S, _AFTER_S = 5.0, 3.0, 5.0
"""How long the load runs by itself, a host is stopped, and is looked at afterwards."""


@dataclass(frozen=True)
class Event:
    """One failure; times in seconds, of the machine's monotonic clock."""

    kind: str
    at_s: float
    settled_s: float
    """When every expert had both of its copies again."""


@dataclass(frozen=True)
class Outcome:
    """What the streams saw of one failure."""

    kind: str
    longest_pause_s: float
    """Between two steps of the engine, of all its streams alike."""
    until_settled_s: float
    before_tokens_per_s: float
    during_tokens_per_s: float
    """In the three seconds from it on."""
    after_tokens_per_s: float


@dataclass(frozen=True)
class Report:
    """All of it."""

    num_events: int
    num_requests: int
    num_wrong: int
    """Requests that had another token than they should have."""
    longest_pause_s: float
    median_pause_s: float
    """Of the longest pause after each failure."""
    longest_pause_without_s: float
    """In the time before the first failure."""
    outcomes: Sequence[Outcome]


def fail(tier: LocalTier, number: int) -> Event:
    """One failure of one host, and its repair."""
    kind = "killed" if number % 2 == 0 else "stopped"
    # The oldest: each has its turn.
    victim = tier.hosts.pop(0)
    at_s = time.monotonic()
    if kind == "killed":
        victim.kill()
        tier.start()
    else:
        victim.process.send_signal(signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        victim.process.send_signal(signal.SIGCONT)
        tier.hosts.append(victim)
    tier.until_settled()
    return Event(kind, at_s, time.monotonic())


def run(model: Path, num_events: int) -> tuple[Said, list[Event]]:
    """The load, and what befell its hosts meanwhile."""
    rebalance = RebalanceSection(min_copies=2, min_interval_s=5.0)
    with local_tier(model, num_hosts=3, num_slots=12, rebalance=rebalance) as tier:
        engine = LoadedEngine(tier.engine_arguments(), tier.environment, LOAD)
        try:
            time.sleep(2 * _BEFORE_S)
            events = []
            for number in range(num_events):
                events.append(fail(tier, number))
                sys.stderr.write(f"{number + 1} of {num_events}: {events[-1].kind}\n")
                time.sleep(_AFTER_S + _BEFORE_S)
            return engine.end(), events
        finally:
            engine.close()


def report(said: Said, events: Sequence[Event], expected: Mapping[int, list[int]]) -> Report:
    """What there is to say of it."""
    pauses = said.pauses()

    def longest(start_s: float, end_s: float) -> float:
        return max(
            length for at_s, length in pauses if start_s <= at_s + length and at_s < end_s
        )

    def rate(start_s: float, end_s: float) -> float:
        made = sum(count for at_s, count in said.steps if start_s <= at_s < end_s)
        return made / (end_s - start_s)

    outcomes = [
        Outcome(
            kind=event.kind,
            longest_pause_s=longest(event.at_s, event.settled_s + _AFTER_S),
            until_settled_s=event.settled_s - event.at_s,
            before_tokens_per_s=rate(event.at_s - _BEFORE_S, event.at_s),
            during_tokens_per_s=rate(event.at_s, event.at_s + _STOPPED_S),
            after_tokens_per_s=rate(event.settled_s, event.settled_s + _AFTER_S),
        )
        for event in events
    ]
    found = [outcome.longest_pause_s for outcome in outcomes]
    return Report(
        num_events=len(events),
        num_requests=len(said.answers),
        num_wrong=sum(ids != expected[number] for number, ids in said.answers),
        longest_pause_s=max(found),
        median_pause_s=statistics.median(found),
        longest_pause_without_s=longest(events[0].at_s - _BEFORE_S, events[0].at_s),
        outcomes=outcomes,
    )


def main() -> None:
    """Run it and print the report as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a mixture-of-experts checkpoint")
    parser.add_argument("--events", type=int, default=20, help="failures (default 20)")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    arguments = parser.parse_args()
    whole: dict[str, Any] = {"model": str(arguments.model), "dtype": "float32"}
    expected = dict(LoadedEngine(whole, {}, replace(LOAD, once=True)).wait().answers)
    said, events = run(arguments.model, arguments.events)
    text = json.dumps(asdict(report(said, events, expected)), indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()

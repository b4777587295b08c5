"""What a tenant notices of another one's flood: its time to the first token.

One cluster, three tenants with keys. The first keeps a few requests under way. In
each round that is measured four times, in turn: alone; beside a flood of a tenant
that may run two requests at a time; beside one of a tenant without such a limit,
so that fair sharing alone protects the first; and beside as large a flood under
the first tenant's own key, which admission cannot tell from its requests. The last
shows what admission is worth.

    python -m tests.bench.tenants --rounds 3 --json tests/bench/results/tenants.json

All tenants have the same weight, and the configuration (`TENANTS`, `ADMISSION` and
`MODEL` here) is the same in all phases.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.benchmark.driver import Manner
from coterie.benchmark.load import Load, run_load
from coterie.benchmark.native import NativeDriver
from coterie.benchmark.plan import Lengths, at_rate, one_after_another, planned_mix
from coterie.benchmark.summary import Slo, Summary, summarize
from coterie.benchmark.types import PlannedRequest, Sample
from tests.builders.cluster import RunningCluster
from tests.builders.keys import write_keys

QUIET, LIMITED, UNLIMITED = "quiet", "limited", "unlimited"
ALONE = "alone"
PHASE_TO_FLOODING = {
    ALONE: None,
    "beside the flood of a limited tenant": LIMITED,
    "beside the flood of an unlimited tenant": UNLIMITED,
    "beside its own flood": QUIET,
}
PHASES = tuple(PHASE_TO_FLOODING)
TENANTS: list[dict[str, Any]] = [
    {"name": QUIET},
    {"name": LIMITED, "max_concurrent_requests": 2, "max_queued_requests": 16},
    {"name": UNLIMITED, "max_queued_requests": 16},
]
ADMISSION = {"max_queued_requests": 32}
MODEL = {
    "name": "bench",
    "model": "smollm2-135m-instruct",
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "enforce_eager": True,
    # Bounds what one step prefills, and so what a sequence in decode waits for.
    "engine_args": {"max_num_batched_tokens": 256},
}


@dataclass(frozen=True)
class Row:
    """One phase: medians over the rounds; times in seconds, tokens and requests per
    second. Ratios are to the phase "alone" of the same round. Times are those of
    `num_requests`, which were answered; None where all were turned away."""

    phase: str
    num_requests: int
    num_turned_away: int
    ttft_median_s: float | None
    ttft_p90_s: float | None
    ttft_p90_ratio: float | None
    ttft_p90_ratio_max: float | None
    tpot_median_s: float | None
    output_tokens_per_s: float
    flood_output_tokens_per_s: float
    flood_turned_away_per_s: float


@dataclass(frozen=True)
class Phase:
    """What was measured in one phase of one round."""

    quiet: Summary
    flood: Summary | None


@dataclass(frozen=True)
class Settings:
    """Loads of both tenants."""

    address: str
    keys: Mapping[str, str]
    duration_s: float
    concurrency: int
    flood_per_s: float


async def measure(settings: Settings, phase: str, seed: int) -> Phase:
    """Run one phase."""
    flooding = PHASE_TO_FLOODING[phase]
    samples: list[Sample] = []
    flood: list[Sample] = []
    async with _flood(settings, flooding, seed, flood):
        requests = planned_mix(Lengths(96, 160), Lengths(32, 32), seed)
        await _send(settings, QUIET, one_after_another(requests), samples, seed)
    return Phase(summarize(samples, Slo()), summarize(flood, Slo()) if flooding else None)


@asynccontextmanager
async def _flood(
    settings: Settings, tenant: str | None, seed: int, samples: list[Sample]
) -> AsyncIterator[None]:
    if tenant is None:
        yield
        return
    plan = planned_mix(Lengths(64, 512), Lengths(64, 128), seed + 1_000_000)
    requests = at_rate(plan, settings.flood_per_s, seed)
    flood = asyncio.create_task(_send(settings, tenant, requests, samples, seed, is_flood=True))
    # What was idle is to be full before the other tenant is measured.
    await asyncio.sleep(5)
    try:
        yield
    finally:
        flood.cancel()
        with suppress(asyncio.CancelledError):
            await flood


async def _send(
    settings: Settings,
    tenant: str,
    requests: Iterator[PlannedRequest],
    samples: list[Sample],
    seed: int,
    *,
    is_flood: bool = False,
) -> None:
    manner = Manner(temperature=0.0, ignore_eos=True, api_key=settings.keys[tenant])
    driver = NativeDriver(settings.address, manner)
    try:
        load = Load(
            requests=requests,
            concurrency=None if is_flood else settings.concurrency,
            alphabet=await driver.prepare(),
            seed=seed,
            duration_s=None if is_flood else settings.duration_s,
        )
        await run_load(load, driver, samples.append)
    finally:
        await driver.close()


def _row(phase: str, rounds: list[dict[str, Phase]]) -> Row:
    found = [phases[phase] for phases in rounds]
    p90s_s = [spread.p90 for p in found if (spread := p.quiet.ttft_s)]
    ratios = [
        mine.p90 / alone.p90
        for phases in rounds
        if (mine := phases[phase].quiet.ttft_s) and (alone := phases[ALONE].quiet.ttft_s)
    ]
    floods = [p.flood for p in found if p.flood]
    return Row(
        phase=phase,
        num_requests=sum(p.quiet.num_requests - p.quiet.num_failed for p in found),
        num_turned_away=sum(p.quiet.num_failed for p in found),
        ttft_median_s=_median(p.quiet.ttft_s.median for p in found if p.quiet.ttft_s),
        ttft_p90_s=_median(p90s_s),
        ttft_p90_ratio=_median(ratios),
        ttft_p90_ratio_max=round(max(ratios), 4) if ratios else None,
        tpot_median_s=_median(p.quiet.tpot_s.median for p in found if p.quiet.tpot_s),
        output_tokens_per_s=_median(p.quiet.output_tokens_per_s for p in found) or 0.0,
        flood_output_tokens_per_s=_median(f.output_tokens_per_s for f in floods) or 0.0,
        flood_turned_away_per_s=_median(f.num_failed / f.duration_s for f in floods) or 0.0,
    )


def _said(phase: Phase) -> str:
    turned_away = f"{phase.quiet.num_failed} turned away"
    spread = phase.quiet.ttft_s
    return f"TTFT p90 {spread.p90:.3f} s, {turned_away}" if spread else turned_away


def _median(values: Iterator[float] | list[float]) -> float | None:
    found = list(values)
    return round(statistics.median(found), 4) if found else None


async def run(settings: Settings, num_rounds: int) -> list[Row]:
    """All phases in turn, `num_rounds` times, after a round that warms up."""
    rounds = []
    for number in range(num_rounds + 1):
        phases: dict[str, Phase] = {}
        for place in range(len(PHASES)):
            phase = PHASES[(place + number) % len(PHASES)]
            phases[phase] = await measure(settings, phase, seed=10 * number + place)
            sys.stderr.write(f"round {number}, {phase}: {_said(phases[phase])}\n")
        if number:
            rounds.append(phases)
    return [_row(phase, rounds) for phase in PHASES]


def main() -> None:
    """Measure and print a row of JSON for each phase."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--duration", type=float, default=30, help="seconds a phase")
    parser.add_argument("--concurrency", type=int, default=2, help="of the quiet tenant")
    parser.add_argument("--flood", type=float, default=10, help="requests per second")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = write_keys(folder / "keys.yaml", [tenant["name"] for tenant in TENANTS])
        gateway = {"api_keys_file": str(folder / "keys.yaml")}
        sections = {"tenants": TENANTS, "admission": ADMISSION, "models": [MODEL]}
        with RunningCluster(folder, "tenants", gateway=gateway, **sections) as cluster:
            settings = Settings(
                cluster.address,
                keys,
                arguments.duration,
                arguments.concurrency,
                arguments.flood,
            )
            rows = asyncio.run(run(settings, arguments.rounds))
    for row in rows:
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

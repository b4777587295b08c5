"""Failures of every kind of process under a steady load, one at a time: what is lost.

    python -m tests.chaos --json build/chaos.json

A real cluster by `coterie up`: two gateways, two engines of a small real model, the metadata
server, Ray and Serve. Clients stream greedy answers without a pause, and compare each with
what was said in peace. In turn each process is killed, stopped (it hangs, and goes on), left
hanging, or slowed. After each the cluster is waited for until it is whole again.

    lost      requests that ended with an error at their client
    wrong     answers with another token
    pause     the longest time that any client waited for its next token, or its first
    whole     seconds until all replicas and links were there again
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.builders.cluster import RunningCluster
from tests.builders.small_llama import write_small_llama
from tests.chaos.events import Event, dense_events, strike
from tests.chaos.load import SteadyLoad

MODEL = "small"
ENGINE = f"engine-{MODEL}"
_WHOLE_LIMIT_S = 240.0
_PEACE_S = 3.0


@dataclass(frozen=True)
class Report:
    """Of one event."""

    event: str
    num_requests: int
    num_lost: int
    lost: dict[str, int]
    num_wrong: int
    longest_pause_s: float
    whole_after_s: float | None
    """None: not within four minutes."""


def sections(model: str, cores: list[list[int]]) -> dict[str, Any]:
    """Of a cluster that has two of everything that may fail alone."""
    engine = {
        "name": MODEL,
        "model": model,
        "num_replicas": 2,
        # In bfloat16 a near tie falls differently in another batch, with or without a kill.
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "kv_cache_memory_bytes": 64 * 1024**2,
        "cpu_cores_per_rank": cores,
        "health_timeout_s": 10,
        "drain_timeout_s": 30,
    }
    return {"gateway": {"num_replicas": 2, "drain_timeout_s": 30}, "models": [engine]}


def is_whole(cluster: RunningCluster) -> bool:
    """All replicas run, and every gateway has links to all engines."""
    states = cluster.status()
    links = [
        count
        for detail in states["gateway"]["details"]
        for count in detail["num_ready_replicas"].values()
    ]
    return links == [2, 2] and states[ENGINE]["num_running"] == 2


async def wait_whole(cluster: RunningCluster, since_s: float) -> float | None:
    """Seconds since then; None where it took too long."""
    while time.monotonic() < since_s + _WHOLE_LIMIT_S:
        if await asyncio.to_thread(is_whole, cluster):
            return time.monotonic() - since_s
        await asyncio.sleep(0.5)
    return None


async def befall(cluster: RunningCluster, load: SteadyLoad, event: Event) -> Report:
    """Let it happen, and see what becomes of it."""
    victim = await asyncio.to_thread(event.victim, cluster)
    await asyncio.sleep(_PEACE_S)
    since_s = time.monotonic()
    for pause_s in strike(event, victim):
        await asyncio.sleep(pause_s)
    # Who has just died may not be missed yet.
    await asyncio.sleep(2 * _PEACE_S)
    whole_after_s = await wait_whole(cluster, since_s)
    await load.settle(since_s)
    found = load.verdict(since_s)
    return Report(
        event=event.name,
        num_requests=found.num_requests,
        num_lost=sum(found.lost.values()),
        lost=dict(found.lost),
        num_wrong=found.num_wrong,
        longest_pause_s=round(found.longest_pause_s, 2),
        whole_after_s=None if whole_after_s is None else round(whole_after_s, 1),
    )


async def run(cluster: RunningCluster, events: list[Event], given: Any) -> list[Report]:
    """All of them, in turn."""
    reports = []
    address = cluster.address
    async with SteadyLoad(address, [MODEL], given.clients, given.tokens) as load:
        for number, event in enumerate(events, start=1):
            print(f"{number}/{len(events)}: {event.name}", file=sys.stderr, flush=True)
            reports.append(await befall(cluster, load, event))
            print(json.dumps(asdict(reports[-1])), flush=True)
            if given.json:
                rows = [asdict(report) for report in reports]
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return reports


def table(reports: list[Report]) -> Table:
    """For people."""
    found = Table("EVENT", "REQUESTS", "LOST", "WRONG", "PAUSE", "WHOLE AFTER", box=None)
    for report in reports:
        whole = report.whole_after_s
        found.add_row(
            report.event,
            str(report.num_requests),
            str(report.num_lost),
            str(report.num_wrong),
            f"{report.longest_pause_s:.1f} s",
            "never" if whole is None else f"{whole:.0f} s",
        )
    return found


def main() -> int:
    """Print a line of JSON for each event, and a table; 1 where anything was lost or wrong."""
    events = dense_events(ENGINE)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=6, help="at once (default 6)")
    parser.add_argument("--tokens", type=int, default=200, help="of each answer (default 200)")
    parser.add_argument(
        "--only", nargs="+", metavar="EVENT", choices=[event.name for event in events]
    )
    parser.add_argument("--json", type=Path, help="also write the reports to this file")
    given = parser.parse_args()
    chosen = [event for event in events if not given.only or event.name in given.only]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = str(write_small_llama(folder / "small-llama.gguf"))
        # One core for both, and the rest for gateways and for replicas that start.
        with RunningCluster(
            folder, "chaos", **sections(model, [[max(os.sched_getaffinity(0))]])
        ) as cluster:
            reports = asyncio.run(run(cluster, chosen, given))
    Console(stderr=True).print(table(reports))
    return int(any(r.num_lost or r.num_wrong or r.whole_after_s is None for r in reports))


if __name__ == "__main__":
    sys.exit(main())

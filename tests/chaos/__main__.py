"""Failures of every kind of process under a steady load, one at a time: what is lost.

    python -m tests.chaos --json build/chaos.json

Real clusters by `coterie up`, of small real models: `dense` (two gateways, two engines, the
metadata server, Serve's controller), `parallel` (tensor-parallel ranks), `experts` (hosts and
their director) and `drafts` (hosts and drafts on nodes of their own, with links by TCP),
`nodes` (of one engine each). Clients stream greedy answers without a pause, and compare each
with what was said in peace. In turn each process is killed, stopped (it answers nothing for
5 s), slowed, stopped for a minute, or parted from all others for as long. After each the
cluster is waited for until it is whole again. Partitions take `unshare`, `ip`, `nft` and the
right to a network namespace and to mount; where one is missing, they are left out.

    lost      requests that ended with an error at their client
    wrong     answers with another token
    pause     the longest time that any client waited for its next token, or its first
    whole     seconds until all replicas, links, indexes and copies of experts were there again
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.builders.cluster import RunningCluster
from tests.builders.ray_worker import warn_of_sessions
from tests.chaos.events import PARTITIONS, Event, strike
from tests.chaos.load import SteadyLoad
from tests.chaos.partition import be_alone
from tests.chaos.stages import Scene, Stage, stages

_WHOLE_LIMIT_S = 240.0
_PEACE_S = 3.0
_NOTICED_S = 6.0
"""That an index is behind, or a host away, is not seen at once."""


@dataclass(frozen=True)
class Report:
    """Of one event."""

    stage: str
    event: str
    num_requests: int
    num_lost: int
    lost: dict[str, int]
    num_wrong: int
    longest_pause_s: float
    whole_after_s: float | None
    """None: not within four minutes."""


def struck(cluster: RunningCluster, victims: list[psutil.Process]) -> set[int]:
    """The process ids of the replicas that a failure of these takes along."""
    pids = {each.pid for each in victims}
    found = set()
    for state in cluster.status().values():
        for replica in state["details"]:
            process = psutil.Process(replica["pid"])
            family = [process, *process.parents(), *process.children(recursive=True)]
            if pids & {each.pid for each in family}:
                found.add(process.pid)
    return found


async def wait_whole(cluster: RunningCluster, since_s: float, gone: set[int]) -> float | None:
    """Seconds since then; None where it took too long."""
    while time.monotonic() < since_s + _WHOLE_LIMIT_S:
        if await asyncio.to_thread(cluster.is_whole, gone):
            return time.monotonic() - since_s
        await asyncio.sleep(0.5)
    return None


async def befall(scene: Scene, load: SteadyLoad, stage: Stage, event: Event) -> Report:
    """Let it happen, and see what becomes of it."""
    await asyncio.to_thread(scene.repair)
    cluster = scene.cluster
    victims = await asyncio.to_thread(event.victims, cluster)
    gone = set()
    if event.how == "kill":
        gone = await asyncio.to_thread(struck, cluster, victims)
    await asyncio.sleep(_PEACE_S)
    since_s = time.monotonic()
    for pause_s in strike(event, victims):
        await asyncio.sleep(pause_s)
    await asyncio.sleep(_NOTICED_S)
    whole_after_s = await wait_whole(cluster, since_s, gone)
    await load.settle(since_s)
    found = load.verdict(since_s)
    return Report(
        stage=stage.name,
        event=event.name,
        num_requests=found.num_requests,
        num_lost=sum(found.lost.values()),
        lost=dict(found.lost),
        num_wrong=found.num_wrong,
        longest_pause_s=round(found.longest_pause_s, 2),
        whole_after_s=None if whole_after_s is None else round(whole_after_s, 1),
    )


async def run(scene: Scene, stage: Stage, given: Any) -> AsyncIterator[Report]:
    """All of the stage's events, in turn."""
    address = scene.cluster.address
    async with SteadyLoad(address, stage.models, given.clients, given.tokens) as load:
        for number, event in enumerate(stage.events, start=1):
            of = f"{stage.name} {number}/{len(stage.events)}"
            print(f"{of}: {event.name}", file=sys.stderr, flush=True)
            yield await befall(scene, load, stage, event)


async def run_all(chosen: list[Stage], given: Any) -> list[Report]:
    """Prints each report as it comes, and keeps them in the file as well."""
    reports: list[Report] = []
    for stage in chosen:
        with tempfile.TemporaryDirectory() as folder, stage.scene(Path(folder)) as scene:
            async for report in run(scene, stage, given):
                reports.append(report)
                print(json.dumps(asdict(report)), flush=True)
                if given.json:
                    rows = [asdict(each) for each in reports]
                    given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return reports


def table(reports: list[Report]) -> Table:
    """For people."""
    columns = "STAGE", "EVENT", "REQUESTS", "LOST", "WRONG", "PAUSE", "WHOLE AFTER"
    found = Table(*columns, box=None)
    for report in reports:
        whole = report.whole_after_s
        found.add_row(
            report.stage,
            report.event,
            str(report.num_requests),
            str(report.num_lost),
            str(report.num_wrong),
            f"{report.longest_pause_s:.1f} s",
            "never" if whole is None else f"{whole:.0f} s",
        )
    return found


def _chosen(found: list[Stage], given: Any, hows: set[str]) -> list[Stage]:
    """Of what is asked for, that which can be done, with the stages that it needs."""

    def is_wanted(event: Event) -> bool:
        return event.how in hows and event.name in (given.only or [event.name])

    chosen = [
        replace(stage, events=list(filter(is_wanted, stage.events)))
        for stage in found
        if stage.name in (given.stage or [stage.name])
    ]
    return [stage for stage in chosen if stage.events]


def main() -> int:
    """Print a line of JSON for each event, and a table; 1 where anything was lost or wrong."""
    found = stages()
    names = [event.name for stage in found for event in stage.events]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=6, help="at once (default 6)")
    parser.add_argument("--tokens", type=int, default=200, help="of each answer (default 200)")
    parser.add_argument("--stage", nargs="+", choices=[stage.name for stage in found])
    parser.add_argument("--only", nargs="+", metavar="EVENT", choices=names)
    parser.add_argument("--json", type=Path, help="also write the reports to this file")
    given = parser.parse_args()
    if why := be_alone():
        print(f"no partitions: {why}", file=sys.stderr)
    warn_of_sessions()
    hows = {event.how for stage in found for event in stage.events}
    hows -= set(PARTITIONS) if why else set()
    reports = asyncio.run(run_all(_chosen(found, given, hows), given))
    Console(stderr=True).print(table(reports))
    return int(any(r.num_lost or r.num_wrong or r.whole_after_s is None for r in reports))


if __name__ == "__main__":
    sys.exit(main())

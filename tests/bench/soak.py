"""Minutes of load by clients that vanish, cancel, send garbage and exceed limits.

Nothing may stay of them: no sequence, KV block, task, thread or file descriptor,
and memory must be level. What is counted is told at the start, while it runs, and
after the clients have gone; the command fails where something has leaked or a
request ended otherwise than it should (`hostile.MANNERS`).

    python -m tests.bench.soak --minutes 10 --json tests/bench/results/soak.json
"""

import argparse
import asyncio
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import aiohttp
import psutil

from coterie import AsyncClient
from tests.bench.hostile import CLIENT_TIMEOUT_S, MANNERS, Kind, Target, outcome_of
from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of
from tests.builders.keys import write_keys

MODEL = "smollm2-135m-instruct"
SECTION = {
    "name": MODEL,
    "model": MODEL,
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 * 1024**2,
}
TENANTS: list[dict[str, Any]] = [
    {"name": "any"},
    {"name": "limited", "requests_per_minute": 30, "tokens_per_minute": 4000},
]
ADMISSION = {"max_queued_requests": 6, "max_queue_s": 5}
MAX_MESSAGE_BYTES = 1024**2
# Connections that were left, or are idle, are closed within this time, and nothing is open.
_SILENCE_S = 30.0
_SAMPLE_S = 10.0
_MIB = 1024**2
_MAX_GROWTH = 0.03
# oneDNN keeps 1,024 compiled primitives, one for each shape of a step, and takes minutes
# to meet them all; with few of them a leak in the engine core can be told from that.
_ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
# What gRPC's pools of threads have seldom more than, by the libraries that a process has
# loaded: told, and no excuse (DECISIONS.md, "gRPC's pools of threads").
_NUM_CORES = os.cpu_count() or 1
_GRPC_POOLS = {
    "cygrpc": 2 * min(max(_NUM_CORES, 4), 16),
    "_raylet": min(max(_NUM_CORES, 2), 16) + 1,
}
_GRPC_THREAD = "event_engine"
# Ray opens and closes a connection of its own now and then.
_SLACK = {"num_door_sockets": 0, "num_tasks": 0, "num_fds": 2}


@dataclass(frozen=True)
class Count:
    """What one process holds; memory in MiB. None where a process does not tell."""

    process: str
    rss_mib: float
    num_fds: int
    num_door_sockets: int
    """Those of `num_fds` that lead to a client. The others are Ray's, files, and links."""
    num_tasks: int | None
    num_open: int | None
    threads: dict[str, int]
    """By the names that the kernel has for them."""
    pool_sizes: dict[str, int] = field(default_factory=dict)
    """Threads, by these names, that pools of gRPC's seldom have more than."""

    @property
    def num_threads(self) -> int:
        return sum(self.threads.values())


@dataclass
class Report:
    """What is written: outcomes by manner, and counts before, while and after."""

    minutes: float
    num_requests: int = 0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    before: list[Count] = field(default_factory=list)
    after: list[Count] = field(default_factory=list)
    memory_mib: dict[str, list[float]] = field(default_factory=dict)


def count(cluster: RunningCluster) -> list[Count]:
    """Gateway, engine replica and engine core."""
    states = cluster.status()
    (gateway,) = states["gateway"]["details"]
    (engine,) = states[f"engine-{MODEL}"]["details"]
    core = engine_core_of(engine["pid"])
    held = sum(gateway["num_held"].values()) + sum(gateway["num_running"].values())
    return [
        _count("gateway", gateway["pid"], cluster, gateway["num_tasks"], held),
        _count(
            "engine replica",
            engine["pid"],
            cluster,
            engine["num_tasks"],
            engine["num_open_calls"],
        ),
        _count(
            "engine core (KV blocks)", core.pid, cluster, None, engine["num_used_kv_blocks"]
        ),
    ]


def _count(
    name: str,
    pid: int,
    cluster: RunningCluster,
    num_tasks: int | None,
    num_open: int | None,
) -> Count:
    process = psutil.Process(pid)
    ports = {int(a.rsplit(":", 1)[1]) for a in (cluster.address, cluster.http_url)}
    return Count(
        process=name,
        rss_mib=round(process.memory_info().rss / _MIB, 1),
        num_fds=process.num_fds(),
        num_door_sockets=sum(
            bool(each.laddr) and each.laddr.port in ports
            for each in process.net_connections(kind="tcp")
        ),
        num_tasks=num_tasks,
        num_open=num_open,
        threads=_threads_of(pid),
        pool_sizes=_pool_sizes_of(process),
    )


def _threads_of(pid: int) -> dict[str, int]:
    names: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        # Threads come and go while they are counted.
        with suppress(OSError):
            names[(task / "comm").read_text().strip()] += 1
    return dict(sorted(names.items()))


def _pool_sizes_of(process: psutil.Process) -> dict[str, int]:
    files = [Path(each.path).name for each in process.memory_maps()]
    sizes = [
        size
        for library, size in _GRPC_POOLS.items()
        if any(name.startswith(library) for name in files)
    ]
    return {_GRPC_THREAD: sum(sizes)} if sizes else {}


async def behave(
    kind: Kind, target: Target, seed: str, outcomes: Counter[str], until_s: float
) -> None:
    """One client, request after request."""
    dice = random.Random(seed)
    while time.monotonic() < until_s:
        found = await outcome_of(kind.manner, target, dice)
        outcomes[found] += 1
        # Refusals are quick: a client that hammers would only measure itself.
        await asyncio.sleep(dice.uniform(0, 0.2))


async def run(cluster: RunningCluster, target: Target, report: Report) -> None:
    """A warm-up that makes what is made once, then the load, then silence."""
    tallies: dict[str, Counter[str]] = {name: Counter() for name in MANNERS}
    await _load(target, {name: Counter() for name in MANNERS}, minutes=min(1, report.minutes))
    report.before = await _after_silence(cluster)
    _say("before", report.before)
    load = asyncio.create_task(_load(target, tallies, report.minutes))
    while not load.done():
        await asyncio.wait([load], timeout=_SAMPLE_S)
        counts = await asyncio.to_thread(count, cluster)
        for each in counts:
            report.memory_mib.setdefault(each.process, []).append(each.rss_mib)
        _say(f"{sum(t.total() for t in tallies.values())} requests", counts)
    await load
    report.after = await _after_silence(cluster)
    _say("after", report.after)
    report.outcomes = {name: dict(tally.most_common()) for name, tally in tallies.items()}
    report.num_requests = sum(tally.total() for tally in tallies.values())
    report.findings = findings(report)


async def _load(target: Target, tallies: dict[str, Counter[str]], minutes: float) -> None:
    until_s = time.monotonic() + 60 * minutes
    async with asyncio.TaskGroup() as group:
        for name, kind in MANNERS.items():
            for number in range(kind.num_clients):
                seed = f"{name}/{number}/{minutes}"
                group.create_task(behave(kind, target, seed, tallies[name], until_s))


async def _after_silence(cluster: RunningCluster) -> list[Count]:
    await asyncio.sleep(_SILENCE_S)
    # Connections of the clients themselves that wait for a collection are no leak.
    gc.collect()
    return await asyncio.to_thread(count, cluster)


def findings(report: Report) -> list[str]:
    """What is not as it should be."""
    found = [
        f"{name}: {number} requests ended as {outcome!r}"
        for name, outcomes in report.outcomes.items()
        for outcome, number in outcomes.items()
        if outcome not in MANNERS[name].expected
    ]
    for before, after in zip(report.before, report.after, strict=True):
        if after.num_open:
            found.append(f"{after.process}: {after.num_open} still open")
        for what, slack in _SLACK.items():
            more = (getattr(after, what) or 0) - (getattr(before, what) or 0)
            if more > slack:
                found.append(f"{after.process}: {more} more {what} than before")
        newcomers = Counter(after.threads) - Counter(before.threads)
        found += [
            f"{after.process}: {number} more threads {name!r} than before"
            for name, number in newcomers.items()
        ]
    for process, samples_mib in report.memory_mib.items():
        growth = growth_of(samples_mib)
        if growth > _MAX_GROWTH:
            found.append(f"{process}: memory has grown by {growth:.1%} between the thirds")
    return found


def growth_of(samples: list[float]) -> float:
    """Of the mean of the last third over that of the first."""
    third = max(1, len(samples) // 3)
    return fmean(samples[-third:]) / fmean(samples[:third]) - 1


def _say(when: str, counts: list[Count]) -> None:
    words = "; ".join(
        f"{c.process}: {c.rss_mib:.0f} MiB, {c.num_threads} threads, {c.num_fds} fds, "
        f"{c.num_tasks} tasks, {c.num_open} open"
        for c in counts
    )
    sys.stderr.write(f"{when}: {words}\n")


async def _drive(cluster: RunningCluster, keys: dict[str, str], report: Report) -> None:
    async with AsyncExitStack() as opened:
        timeout = aiohttp.ClientTimeout(total=120)
        session = aiohttp.ClientSession(timeout=timeout)
        target = Target(
            grpc_address=cluster.address,
            http_url=cluster.http_url,
            model=MODEL,
            key=keys["any"],
            limited_key=keys["limited"],
            max_message_bytes=MAX_MESSAGE_BYTES,
            client=await opened.enter_async_context(_client(cluster, keys["any"])),
            limited_client=await opened.enter_async_context(_client(cluster, keys["limited"])),
            session=await opened.enter_async_context(session),
        )
        await run(cluster, target, report)


def _client(cluster: RunningCluster, key: str) -> AsyncClient:
    return AsyncClient(cluster.address, api_key=key, max_retries=0)


def main() -> None:
    """Run, and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=10, help="length (default 10)")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    arguments = parser.parse_args()
    report = Report(arguments.minutes)
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = write_keys(folder / "keys.yaml", [tenant["name"] for tenant in TENANTS])
        gateway: dict[str, Any] = {
            "api_keys_file": str(folder / "keys.yaml"),
            "max_message_bytes": MAX_MESSAGE_BYTES,
            "client_timeout_s": CLIENT_TIMEOUT_S,
            "keep_alive_s": 20,  # the client's library keeps its own for 15 s
        }
        sections = {"tenants": TENANTS, "admission": ADMISSION, "models": [SECTION]}
        with RunningCluster(folder, "soak", gateway=gateway, **sections) as cluster:
            asyncio.run(_drive(cluster, keys, report))
    text = json.dumps(asdict(report), indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text)
    if report.findings:
        sys.exit("\n".join(["not as it should be:", *report.findings]))


if __name__ == "__main__":
    main()

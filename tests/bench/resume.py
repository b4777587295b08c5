"""Engine replicas killed under greedy streams: how many complete, and how long they pause.

    python -m tests.bench.resume --kills 5 --streams 20 --json tests/bench/results/resume.json

Half of the streams come by gRPC and half by OpenAI's HTTP. Each answer is compared with
that of the same request undisturbed. The model computes in float32: in bfloat16 a near tie
falls differently in another batch now and then, with or without a kill.
"""

import argparse
import asyncio
import json
import re
import signal
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from coterie import AsyncClient
from tests.bench.event_client import EventClient
from tests.builders.cluster import RunningCluster
from tests.builders.streams import Heard, by_grpc, by_http

MODEL = "smollm2-135m-instruct"
SECTION = {
    "name": MODEL,
    "model": MODEL,
    "num_replicas": 2,
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 256 * 1024**2,
}
_RESUMES = re.compile(r'^coterie_resumes_total\{.*outcome="(\w+)".*\} (\S+)$', re.MULTILINE)
_WHOLE_WITHIN_S = 300.0


@dataclass
class Report:
    """What is written; pauses are those of the streams that lost their replica."""

    num_kills: int = 0
    num_streams: int = 0
    num_complete: int = 0
    num_identical: int = 0
    num_resumed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    pause_p50_ms: float = 0.0
    pause_max_ms: float = 0.0
    failures: list[str] = field(default_factory=list)


async def stream_all(
    cluster: RunningCluster, num_streams: int, num_tokens: int, heard: Sequence[Heard]
) -> list[BaseException | None]:
    """All at once, each with a connection of its own; how each failed, if it did."""
    async with AsyncExitStack() as stack:
        runs = []
        for number in range(num_streams):
            if number % 2:
                http = await stack.enter_async_context(EventClient(cluster.http_url))
                runs.append(by_http(http, MODEL, number, num_tokens, heard[number]))
            else:
                client = AsyncClient(cluster.address, max_retries=0)
                await stack.enter_async_context(client)
                runs.append(by_grpc(client, number, num_tokens, heard[number]))
        return await asyncio.gather(*runs, return_exceptions=True)


def kill_one(cluster: RunningCluster) -> float:
    """Kill an engine replica; the moment, by the monotonic clock."""
    details = cluster.status()[f"engine-{MODEL}"]["details"]
    busiest = max(details, key=lambda detail: detail["num_open_calls"])
    psutil.Process(busiest["pid"]).send_signal(signal.SIGKILL)
    return time.monotonic()


def resumes(cluster: RunningCluster) -> dict[str, int]:
    """Of all requests so far, by outcome."""
    with urllib.request.urlopen(f"{cluster.http_url}/metrics") as answer:
        text = answer.read().decode()
    found: dict[str, int] = {}
    for outcome, count in _RESUMES.findall(text):
        found[outcome] = found.get(outcome, 0) + round(float(count))
    return found


async def until_whole(cluster: RunningCluster) -> None:
    """Wait until both replicas run and the gateway has its links."""
    deadline = time.monotonic() + _WHOLE_WITHIN_S
    while True:
        states = await asyncio.to_thread(cluster.status)
        ready = [d["num_ready_replicas"][MODEL] for d in states["gateway"]["details"]]
        if ready == [2] and states[f"engine-{MODEL}"]["num_running"] == 2:
            return
        assert time.monotonic() < deadline, states
        await asyncio.sleep(1)


async def one_kill(
    cluster: RunningCluster, expected: Sequence[Heard], num_tokens: int, report: Report
) -> list[float]:
    """One round; the pauses of the streams that were resumed, in seconds."""
    await until_whole(cluster)
    before = sum(resumes(cluster).values())
    heard = [Heard() for _ in expected]
    streams = asyncio.create_task(stream_all(cluster, len(expected), num_tokens, heard))
    while min(len(each.times_s) for each in heard) < num_tokens // 4:
        assert not streams.done(), streams.result()
        await asyncio.sleep(0.01)
    killed_s = await asyncio.to_thread(kill_one, cluster)
    failures = await streams
    report.num_kills += 1
    report.num_streams += len(heard)
    report.num_complete += failures.count(None)
    report.num_identical += sum(got == want for got, want in zip(heard, expected, strict=True))
    report.failures += [repr(failure) for failure in failures if failure is not None]
    num_resumed = sum(resumes(cluster).values()) - before
    report.num_resumed += num_resumed
    gaps_s = sorted((each.gap_s(killed_s) for each in heard), reverse=True)
    print(f"kill {report.num_kills}: {num_resumed} resumed, gaps {gaps_s}", flush=True)
    return gaps_s[:num_resumed]


async def run(
    cluster: RunningCluster, num_kills: int, num_streams: int, num_tokens: int
) -> Report:
    """Undisturbed answers first, then kill after kill."""
    report, pauses_s = Report(), []
    await until_whole(cluster)
    expected = [Heard() for _ in range(num_streams)]
    undisturbed = await stream_all(cluster, num_streams, num_tokens, expected)
    assert undisturbed == [None] * num_streams, undisturbed
    for _ in range(num_kills):
        pauses_s += await one_kill(cluster, expected, num_tokens, report)
    report.outcomes = resumes(cluster)
    if pauses_s:
        report.pause_p50_ms = round(1000 * statistics.median(pauses_s), 1)
        report.pause_max_ms = round(1000 * max(pauses_s), 1)
    return report


def main() -> None:
    """Measure, print and write JSON; fails where a stream was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=5, help="replicas killed (default 5)")
    parser.add_argument("--streams", type=int, default=20, help="at a time (default 20)")
    parser.add_argument("--tokens", type=int, default=120, help="of an answer (default 120)")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = [SECTION]
        with RunningCluster(Path(folder), "resume", models=models) as cluster:
            report = asyncio.run(run(cluster, given.kills, given.streams, given.tokens))
    text = json.dumps(asdict(report), indent=1) + "\n"
    print(text, end="")
    if given.json:
        given.json.write_text(text)
    if report.num_identical < report.num_streams:
        raise SystemExit("some streams were lost or came out differently")


if __name__ == "__main__":
    main()

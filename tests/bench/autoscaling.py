"""Engines and nodes that come and go with the load, by Ray's own autoscaler on this machine.

    python -m tests.bench.autoscaling --json build/autoscaling.json --plot build/autoscaling.png

A real cluster of a small real model, whose gateway has a node of its own and each engine as
well: the nodes are processes that Ray's autoscaler starts and ends. In turn

    nobody       the last engine goes, and then its node
    first        a few requests at once, which wait for an engine that waits for a node
    many         more streams than an engine holds, until there is another one on another node
    nobody       both go

What is asked of the same prompt is compared with what was said at first.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coterie import AsyncClient
from coterie.benchmark.plot import check_can_plot
from coterie.errors import CoterieError
from deployments.settings import ClusterSection
from tests.builders.autoscaled_nodes import AutoscaledNodes
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.ray_worker import warn_of_sessions
from tests.builders.small_llama import write_small_llama

NAME = "scaled"
ENGINE = "engine-small"
NUM_FIRST, NUM_MANY, NUM_TOKENS = 3, 16, 1200
_LIMIT_S = 180.0
_SECTION = ClusterSection(app_name=NAME, state_dir=str(STATE_DIR), num_cpus=1)  # type: ignore[arg-type]
_MODEL: dict[str, Any] = {
    "name": "small",
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": 64 * 1024**2,
    "min_replicas": 0,
    "max_replicas": 2,
    "drain_timeout_s": 60,
    # One core for both, and the rest for those that start, gateways and clients.
    "cpu_cores_per_rank": [[max(os.sched_getaffinity(0))]],
    "autoscaling": {
        "upscale_delay_s": 0,
        "downscale_delay_s": 5,
        "downscale_to_zero_delay_s": 5,
        "look_back_period_s": 4,
    },
}


@dataclass
class Point:
    """What there was at a time, in seconds from the beginning."""

    at_s: float
    num_running: int
    num_wanted: int
    num_nodes: int


@dataclass
class Course:
    """What came of it; times in seconds, each from when its phase began."""

    engine_gone_after_s: float = 0.0
    node_gone_after_s: float = 0.0
    first_answers_after_s: float = 0.0
    second_node_after_s: float = 0.0
    second_engine_after_s: float = 0.0
    all_gone_after_s: float = 0.0
    num_requests: int = 0
    num_lost: int = 0
    num_wrong: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    """When each began."""
    points: list[Point] = field(default_factory=list)


class Watch:
    """Looks at cluster and nodes, and remembers what it saw."""

    def __init__(self, cluster: RunningCluster, nodes: AutoscaledNodes, course: Course) -> None:
        self._cluster, self._nodes, self._course = cluster, nodes, course
        self._began_s = time.monotonic()

    def phase(self, name: str) -> float:
        """It begins."""
        now_s = time.monotonic()
        self._course.phases[name] = round(now_s - self._began_s, 1)
        print(f"{now_s - self._began_s:5.0f} s  {name}", file=sys.stderr, flush=True)
        return now_s

    def look(self) -> Point:
        """One point more."""
        state = self._cluster.status()[ENGINE]
        now_s = round(time.monotonic() - self._began_s, 2)
        running, wanted = len(state["details"]), state["num_wanted"]
        point = Point(now_s, running, wanted, len(self._nodes.pids()))
        self._course.points.append(point)
        return point

    async def until(self, condition: Callable[[Point], bool], since_s: float) -> float:
        """How long it took since then; RuntimeError where it takes minutes."""
        while not condition(await asyncio.to_thread(self.look)):
            if time.monotonic() > since_s + _LIMIT_S:
                raise RuntimeError(f"not within {_LIMIT_S:.0f} s: {self._course.points[-1]}")
            await asyncio.sleep(0.3)
        return round(time.monotonic() - since_s, 1)


async def run(folder: Path) -> Course:
    """Start all, and end all."""
    model = _MODEL | {"model": str(write_small_llama(folder / "small-llama.gguf"))}
    sections: dict[str, Any] = {
        "cluster": {"app_name": NAME, "state_dir": str(STATE_DIR), "node_groups": True},
        "models": [model],
        "admission": {"max_queue_s": 300},
    }
    types = {"gateways": {"gateway": 1.0}, "engines": {ENGINE: 1.0}}
    course = Course()
    with (
        AutoscaledNodes(_SECTION, types, max_nodes=2, idle_s=6) as nodes,
        RunningCluster(folder, NAME, **sections) as cluster,
    ):
        watch = Watch(cluster, nodes, course)
        async with AsyncClient(cluster.address) as client:
            await _phases(client, watch, course)
    return course


async def _phases(client: AsyncClient, watch: Watch, course: Course) -> None:
    async def ask() -> str:
        answer = await client.generate_unary(
            "Once upon a time", temperature=0, max_tokens=12, timeout_s=300
        )
        return answer.text

    expected = await ask()
    since_s = watch.phase("nobody")
    course.engine_gone_after_s = await watch.until(lambda p: p.num_running == 0, since_s)
    course.node_gone_after_s = await watch.until(lambda p: p.num_nodes == 1, since_s)

    since_s = watch.phase("first")
    asked = asyncio.gather(*(ask() for _ in range(NUM_FIRST)), return_exceptions=True)
    await watch.until(lambda _: asked.done(), since_s)
    course.first_answers_after_s = round(time.monotonic() - since_s, 1)
    _count(course, await asked, expected)

    since_s = watch.phase("many")
    is_enough = asyncio.Event()
    streams = asyncio.gather(*(_stream(client, is_enough) for _ in range(NUM_MANY)))
    course.second_node_after_s = await watch.until(lambda p: p.num_nodes == 3, since_s)
    course.second_engine_after_s = await watch.until(lambda p: p.num_running == 2, since_s)
    is_enough.set()
    await watch.until(lambda _: streams.done(), since_s)
    _count(course, [each for answers in await streams for each in answers], NUM_TOKENS)

    since_s = watch.phase("nobody again")
    course.all_gone_after_s = await watch.until(
        lambda p: p.num_running == 0 and p.num_nodes == 1, since_s
    )


async def _stream(client: AsyncClient, is_enough: asyncio.Event) -> list[int | Exception]:
    """One answer after the other: how many tokens each had, or what it raised."""
    found: list[int | Exception] = []
    while not is_enough.is_set():
        num_tokens = 0
        stream = client.generate(
            [5, 6, 7], max_tokens=NUM_TOKENS, ignore_eos=True, temperature=0, timeout_s=200
        )
        try:
            async for chunk in stream:
                num_tokens += len(chunk.token_ids)
        except CoterieError as error:
            found.append(error)
        else:
            found.append(num_tokens)
    return found


def _count(course: Course, answers: list[Any], expected: object) -> None:
    course.num_requests += len(answers)
    course.num_lost += sum(isinstance(each, BaseException) for each in answers)
    course.num_wrong += sum(
        each != expected for each in answers if not isinstance(each, BaseException)
    )


def draw(course: Course, path: Path) -> None:
    """Engines and nodes over time."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a while to import

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    times = [point.at_s for point in course.points]
    for label, values in (
        ("engines wanted", [p.num_wanted for p in course.points]),
        ("engines that serve", [p.num_running for p in course.points]),
        ("nodes, the gateway's among them", [p.num_nodes for p in course.points]),
    ):
        axes.step(times, values, where="post", label=label)
    for name, at_s in course.phases.items():
        axes.axvline(at_s, color="0.7", linewidth=0.8)
        axes.text(at_s, 3.3, f" {name}", fontsize=8)
    axes.set(xlabel="seconds", ylim=(-0.1, 3.6), yticks=range(4))
    axes.legend(loc="center right", fontsize=8)
    figure.savefig(path)


def main() -> int:
    """Print what came of it; 1 where a request was lost or wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    parser.add_argument("--plot", type=Path, help="a picture of the course")
    given = parser.parse_args()
    if given.plot:
        check_can_plot(given.plot)
    warn_of_sessions()
    with tempfile.TemporaryDirectory() as folder:
        course = asyncio.run(run(Path(folder)))
    found = asdict(course)
    if given.json:
        given.json.write_text(json.dumps(found) + "\n")
    if given.plot:
        draw(course, given.plot)
    del found["points"]
    print(json.dumps(found, indent=1))
    return int(bool(course.num_lost or course.num_wrong))


if __name__ == "__main__":
    sys.exit(main())

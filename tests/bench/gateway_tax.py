"""What the cluster costs: the full gRPC path against the bare engine.

Both run in one go, on the same machine, with the same engine settings and
cores and the same prompts:

- *direct*: vLLM's async engine driven in this process;
- *gateway*: `coterie.AsyncClient` -> gRPC -> gateway -> link -> engine replica,
  through a cluster that this program starts.

Each level of concurrency is measured in rounds that alternate the two, one
ratio a round, so that a slow spell of the machine falls on both. A round sends
`concurrency` requests at once and streams them to their end.

    python -m tests.bench.gateway_tax --rounds 5
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from coterie import AsyncClient
from deployments.engine.environment import engine_environment
from deployments.engine.plan import plan_engine_args, plan_placement, plan_thread_environment
from deployments.models.resolve import resolve_model
from deployments.settings import ModelSection
from deployments.types import Call, Sampling
from tests.builders.cluster import STATE_DIR, RunningCluster

Stream = Callable[[str, list[int], int], AsyncIterator[int]]


@dataclass(frozen=True)
class Sample:
    """One round of one path: output tokens a second, and times to first token."""

    tokens_per_s: float
    ttft_ms: float  # median over the round's requests
    cpu_s: float  # of this process: the client's share, or the direct driver's


@dataclass(frozen=True)
class Row:
    """One level of concurrency: medians over the rounds."""

    concurrency: int
    direct_tokens_per_s: float
    gateway_tokens_per_s: float
    throughput_ratio: float
    ratio_min: float
    ratio_max: float
    direct_ttft_ms: float
    gateway_ttft_ms: float
    added_ttft_ms: float


def prompts(count: int, num_tokens: int, salt: int) -> list[list[int]]:
    """Prompts no two of which begin alike, so that no prefix is cached.

    Shape: [count, num_tokens].
    """
    return [
        [1000 + (salt * 7919 + i * 104729 + j * 31) % 40000 for j in range(num_tokens)]
        for i in range(count)
    ]


async def measure(stream: Stream, batch: list[list[int]], num_tokens: int) -> Sample:
    """Send the batch at once and read every stream to its end."""

    async def one(name: str, prompt: list[int]) -> tuple[int, float]:
        count, first_s = 0, 0.0
        async for made in stream(name, prompt, num_tokens):
            first_s = first_s or time.perf_counter() - started
            count += made
        return count, first_s

    cpu, started = time.process_time(), time.perf_counter()
    done = await asyncio.gather(*(one(f"{started}-{i}", p) for i, p in enumerate(batch)))
    wall_s = time.perf_counter() - started
    assert all(count == num_tokens for count, _ in done), "a stream ended early"
    return Sample(
        tokens_per_s=sum(count for count, _ in done) / wall_s,
        ttft_ms=1000 * statistics.median(first for _, first in done),
        cpu_s=time.process_time() - cpu,
    )


def through_gateway(client: AsyncClient) -> Stream:
    """Streams of the full path."""

    async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
        chunks = client.generate(
            prompt, temperature=0.0, max_tokens=num_tokens, ignore_eos=True
        )
        async for chunk in chunks:
            yield len(chunk.token_ids)

    return stream


async def direct(section: ModelSection) -> tuple[Stream, Callable[[], None]]:
    """Streams of the bare engine in this process, and how to end it."""
    path = resolve_model(section.model, STATE_DIR).path
    os.environ.update(engine_environment(STATE_DIR))
    from deployments.engine.engine import Engine  # noqa: PLC0415  (needs the environment)

    executor = plan_placement(section, "cpu").executor
    os.environ.update(plan_thread_environment(section, sorted(os.sched_getaffinity(0))))
    args = plan_engine_args(section, "cpu", path, executor)
    engine = await asyncio.to_thread(Engine.start, args, {})

    async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
        sampling = Sampling(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        async for delta, _ in engine.run(Call(name, prompt, sampling)):
            yield len(delta.token_ids)

    return stream, engine.shutdown


async def compare(
    paths: dict[str, Stream], arguments: argparse.Namespace
) -> AsyncIterator[Row]:
    """A row for each level of concurrency, with alternating rounds."""
    for level in arguments.concurrency:
        samples: dict[str, list[Sample]] = {name: [] for name in paths}
        repeats = max(1, 4 // level)
        for number in range(arguments.rounds + 1):
            order = list(paths) if number % 2 else list(reversed(paths))
            for name in order:
                found = [
                    await measure(
                        paths[name],
                        prompts(level, arguments.prompt_tokens, 1000 * number + repeat),
                        arguments.output_tokens,
                    )
                    for repeat in range(repeats)
                ]
                # The first round warms both paths up.
                samples[name] += found if number else []
            if number:
                _progress(level, number, {n: s[-1] for n, s in samples.items()})
        yield _row(level, samples["direct"], samples["gateway"])


def _row(level: int, base: list[Sample], ours: list[Sample]) -> Row:
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(base, ours, strict=True)]
    added = [b.ttft_ms - a.ttft_ms for a, b in zip(base, ours, strict=True)]
    return Row(
        concurrency=level,
        direct_tokens_per_s=round(statistics.median(s.tokens_per_s for s in base), 1),
        gateway_tokens_per_s=round(statistics.median(s.tokens_per_s for s in ours), 1),
        throughput_ratio=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        direct_ttft_ms=round(statistics.median(s.ttft_ms for s in base), 1),
        gateway_ttft_ms=round(statistics.median(s.ttft_ms for s in ours), 1),
        added_ttft_ms=round(statistics.median(added), 2),
    )


def _progress(level: int, number: int, last: dict[str, Sample]) -> None:
    told = ", ".join(f"{name} {s.tokens_per_s:.0f} tok/s" for name, s in last.items())
    print(f"  concurrency {level}, round {number}: {told}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds a level (default 5)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[1, 4, 16, 32], help="levels"
    )
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument(
        "--cores", type=int, nargs="+", help="cores of the engine's threads (default all)"
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, section: ModelSection, address: str) -> list[Row]:
    stream, shutdown = await direct(section)
    rows = []
    try:
        async with AsyncClient(address) as client:
            paths = {"direct": stream, "gateway": through_gateway(client)}
            async for row in compare(paths, arguments):
                rows.append(row)
                print(json.dumps(asdict(row)), flush=True)
    finally:
        shutdown()
    return rows


def main() -> None:
    """Measure and print a row of JSON a level."""
    arguments = _arguments()
    section = ModelSection(
        name="bench",
        model=arguments.model,
        max_model_len=2048,
        enforce_eager=True,
        cpu_cores_per_rank=[arguments.cores] if arguments.cores else None,
    )
    models = [section.model_dump(mode="json", exclude_defaults=True)]
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningCluster(Path(folder), "bench", models=models) as cluster,
    ):
        rows = asyncio.run(_run(arguments, section, cluster.address))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

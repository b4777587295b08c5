"""Rounds that alternate paths, and what they say: a row for each level and path.

A round sends `concurrency` requests at once down each path in turn, and streams
them to their end. Which path goes first moves on by one each round, so that a
slow spell of the machine falls on all of them.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

BASE = "direct"
"""The path that all others are measured against."""

Stream = Callable[[str, list[int], int], AsyncIterator[int]]
"""Of a request's name, its prompt and the number of output tokens wanted: counts
of output tokens that add up to all of them, the first with the first token."""


@dataclass(frozen=True)
class Load:
    """What is sent."""

    levels: Sequence[int]  # requests at once
    num_rounds: int
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True)
class Sample:
    """One round of one path."""

    tokens_per_s: float
    ttft_ms: float  # time to first token, median over the round's requests


@dataclass(frozen=True)
class Row:
    """One path at one level of concurrency: medians over the rounds.

    Ratios and added time are those of samples taken in the same round.
    """

    path: str
    concurrency: int
    direct_tokens_per_s: float
    tokens_per_s: float
    throughput_ratio: float
    ratio_min: float
    ratio_max: float
    direct_ttft_ms: float
    ttft_ms: float
    added_ttft_ms: float


async def compare(paths: Mapping[str, Stream], load: Load) -> AsyncIterator[Row]:
    """A row for each level and each path but the base."""
    for level in load.levels:
        samples: dict[str, list[Sample]] = {name: [] for name in paths}
        for number in range(load.num_rounds + 1):
            for name in _turn(list(paths), number):
                found = [
                    await measure(paths[name], batch, load.num_output_tokens)
                    for batch in _batches(load, level, number, list(paths).index(name))
                ]
                # The first round warms all paths up.
                samples[name] += found if number else []
            if number:
                _progress(level, number, {n: s[-1] for n, s in samples.items()})
        for name in paths:
            if name != BASE:
                yield _row(name, level, samples[BASE], samples[name])


async def measure(stream: Stream, batch: list[list[int]], num_tokens: int) -> Sample:
    """Send the batch at once and read every stream to its end."""

    async def one(name: str, prompt: list[int]) -> tuple[int, float]:
        count, first_s = 0, 0.0
        async for made in stream(name, prompt, num_tokens):
            first_s = first_s or time.perf_counter() - started
            count += made
        return count, first_s

    started = time.perf_counter()
    done = await asyncio.gather(*(one(f"{started}-{i}", p) for i, p in enumerate(batch)))
    wall_s = time.perf_counter() - started
    assert all(count == num_tokens for count, _ in done), "a stream ended early"
    return Sample(
        tokens_per_s=sum(count for count, _ in done) / wall_s,
        ttft_ms=1000 * statistics.median(first for _, first in done),
    )


def prompts(count: int, num_tokens: int, salt: int) -> list[list[int]]:
    """Prompts no two of which begin alike, so that no prefix is cached.

    Shape: [count, num_tokens].
    """
    return [
        [1000 + (salt * 7919 + i * 104729 + j * 31) % 40000 for j in range(num_tokens)]
        for i in range(count)
    ]


def _batches(load: Load, level: int, number: int, path: int) -> Iterator[list[list[int]]]:
    """What a path is sent in a round: several small batches, or a large one.

    Paths may share an engine, so each has prompts of its own.
    """
    for repeat in range(max(1, 4 // level)):
        yield prompts(level, load.num_prompt_tokens, 1000 * number + 100 * path + repeat)


def _turn(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


def _row(name: str, level: int, base: list[Sample], own: list[Sample]) -> Row:
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(base, own, strict=True)]
    added = [b.ttft_ms - a.ttft_ms for a, b in zip(base, own, strict=True)]
    return Row(
        path=name,
        concurrency=level,
        direct_tokens_per_s=round(statistics.median(s.tokens_per_s for s in base), 1),
        tokens_per_s=round(statistics.median(s.tokens_per_s for s in own), 1),
        throughput_ratio=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        direct_ttft_ms=round(statistics.median(s.ttft_ms for s in base), 1),
        ttft_ms=round(statistics.median(s.ttft_ms for s in own), 1),
        added_ttft_ms=round(statistics.median(added), 2),
    )


def _progress(level: int, number: int, last: dict[str, Sample]) -> None:
    told = ", ".join(f"{name} {s.tokens_per_s:.0f} tok/s" for name, s in last.items())
    print(f"  concurrency {level}, round {number}: {told}", file=sys.stderr, flush=True)

"""Which requests a load sends, and when they arrive: pure functions."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count, cycle

from coterie.benchmark.prompts import Given
from coterie.benchmark.trace import TraceRequest
from coterie.benchmark.types import PlannedRequest


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens, both ends included, each equally likely."""

    low: int
    high: int

    def draw(self, generator: random.Random) -> int:
        """One of them."""
        return generator.randint(self.low, self.high)


def planned_mix(prompt: Lengths, output: Lengths, seed: int) -> Iterator[PlannedRequest]:
    """Requests with made-up prompts of drawn lengths, without end."""
    generator = random.Random(f"{seed}/lengths")
    for index in count():
        yield PlannedRequest(
            index=index,
            num_prompt_tokens=prompt.draw(generator),
            max_tokens=output.draw(generator),
        )


def planned_prompts(
    prompts: Sequence[Given], output: Lengths, seed: int
) -> Iterator[PlannedRequest]:
    """The prompts in order, again and again; `output` where one names no max_tokens."""
    generator = random.Random(f"{seed}/lengths")
    for index, given in enumerate(cycle(prompts)):
        drawn = output.draw(generator)
        max_tokens = drawn if given.max_tokens is None else given.max_tokens
        yield PlannedRequest(index=index, prompt=given.text, max_tokens=max_tokens)


def planned_trace(trace: Sequence[TraceRequest], speed: float) -> Iterator[PlannedRequest]:
    """The requests of a trace at their own arrivals, `speed` times as fast."""
    for index, request in enumerate(trace):
        yield PlannedRequest(
            index=index,
            num_prompt_tokens=request.num_prompt_tokens,
            max_tokens=request.num_output_tokens,
            prefix_blocks=request.prefix_blocks,
            at_s=request.at_s / speed,
        )


def at_rate(
    requests: Iterable[PlannedRequest], rate_per_s: float, seed: int
) -> Iterator[PlannedRequest]:
    """The same requests, arriving as a Poisson process of `rate_per_s` (above 0)."""
    gaps_s = exponential_gaps_s(rate_per_s, random.Random(f"{seed}/arrivals"))
    for request, at_s in zip(requests, accumulate(gaps_s), strict=False):
        yield replace(request, at_s=at_s)


def exponential_gaps_s(rate_per_s: float, generator: random.Random) -> Iterator[float]:
    """Gaps between the arrivals of a Poisson process, in seconds, without end."""
    while True:
        yield generator.expovariate(rate_per_s)


def one_after_another(requests: Iterable[PlannedRequest]) -> Iterator[PlannedRequest]:
    """The same requests without arrivals: each begins when there is room for it."""
    for request in requests:
        yield replace(request, at_s=None)


def as_warmup(requests: Iterable[PlannedRequest]) -> Iterator[PlannedRequest]:
    """Requests of the same lengths, but with prompts of their own: made-up ones must
    not put those that are measured into a prefix cache."""
    for request in one_after_another(requests):
        yield replace(request, index=-1 - request.index, prefix_blocks=())

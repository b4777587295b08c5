"""Running a load: requests are sent as planned, and a sample is taken of each."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coterie.benchmark.driver import Driver
from coterie.benchmark.prompts import Alphabet, ask_of
from coterie.benchmark.timeline import Timeline
from coterie.benchmark.types import Ask, Failure, PlannedRequest, Sample
from coterie.errors import CoterieError

Clock = Callable[[], float]
OnSample = Callable[[Sample], None]


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent. `requests` is used up.

    With `concurrency` so many are under way at a time, whatever their arrivals;
    with None each is sent at its arrival, however many are under way. After
    `duration_s` seconds none is begun.
    """

    requests: Iterator[PlannedRequest]
    concurrency: int | None
    alphabet: Alphabet
    seed: int
    duration_s: float | None = None


async def run_load(
    load: Load, driver: Driver, on_sample: OnSample, clock: Clock = time.perf_counter
) -> None:
    """Send all requests and wait for their ends; `on_sample` gets each as it ends.

    A request that fails is a sample too. A cancelled load ends its open requests,
    of which there is no sample.
    """
    run = _Run(load, driver, on_sample, clock)
    if load.concurrency is None:
        await run.by_arrival()
    else:
        await run.by_concurrency(load.concurrency)


class _Run:
    def __init__(self, load: Load, driver: Driver, on_sample: OnSample, clock: Clock) -> None:
        self._load = load
        self._driver = driver
        self._on_sample = on_sample
        self._clock = clock
        self._start_s = clock()

    async def by_concurrency(self, concurrency: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._lane())

    async def by_arrival(self) -> None:
        async with asyncio.TaskGroup() as group:
            for request in self._load.requests:
                assert request.at_s is not None, request
                if self._is_over(request.at_s):
                    break
                # Long prompts take a millisecond to make up: before they are due.
                ask = self._ask(request)
                await asyncio.sleep(self._start_s + request.at_s - self._clock())
                group.create_task(self._measure(request, ask))

    async def _lane(self) -> None:
        """One of the requests under way at a time, and the next when it has ended."""
        for request in self._load.requests:
            if self._is_over(self._clock() - self._start_s):
                break
            await self._measure(request, self._ask(request))

    def _ask(self, request: PlannedRequest) -> Ask:
        return ask_of(request, self._load.alphabet, self._load.seed)

    def _is_over(self, elapsed_s: float) -> bool:
        return self._load.duration_s is not None and elapsed_s >= self._load.duration_s

    async def _measure(self, request: PlannedRequest, ask: Ask) -> None:
        timeline = Timeline(request, self._start_s, self._clock())
        failure = None
        try:
            async for piece in self._driver.stream(ask):
                timeline.add(piece, self._clock())
        except CoterieError as error:
            failure = Failure(error.kind, str(error))
        self._on_sample(timeline.sample(self._clock(), failure))

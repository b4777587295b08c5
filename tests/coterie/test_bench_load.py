"""Running a load: how many are under way, when each is sent, what ends it."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from coterie.benchmark.load import Load, run_load
from coterie.benchmark.prompts import WORDS, Alphabet
from coterie.benchmark.types import Ask, Counts, Failure, Piece, PlannedRequest, Sample
from coterie.errors import CapacityError

pytestmark = pytest.mark.asyncio


class FakeDriver:
    """A `Driver` whose answers are two pieces; a prompt of "refuse" is refused."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.num_open = 0
        self.max_open = 0
        self.hold: asyncio.Event | None = None

    async def prepare(self) -> Alphabet:
        return WORDS

    async def stream(self, ask: Ask) -> AsyncIterator[Piece]:
        self.asks.append(ask)
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        try:
            if ask.prompt == "refuse":
                raise CapacityError("no room")
            yield Piece(has_output=True)
            if self.hold:
                await self.hold.wait()
            await asyncio.sleep(0)
            yield Piece(has_output=True, counts=Counts(1, 2, 0))
        finally:
            self.num_open -= 1

    async def close(self) -> None:
        assert self.num_open == 0


def requests(*prompts: str, at_s: Iterable[float] | None = None) -> list[PlannedRequest]:
    arrivals = list(at_s) if at_s else [None] * len(prompts)
    return [
        PlannedRequest(index, 2, prompt=prompt, at_s=arrival)
        for index, (prompt, arrival) in enumerate(zip(prompts, arrivals, strict=True))
    ]


async def ran(
    planned: list[PlannedRequest],
    driver: FakeDriver,
    concurrency: int | None,
    duration_s: float | None = None,
) -> list[Sample]:
    samples: list[Sample] = []
    load = Load(iter(planned), concurrency, WORDS, seed=0, duration_s=duration_s)
    await run_load(load, driver, samples.append)
    await driver.close()
    return samples


async def test_so_many_are_under_way_at_a_time_and_each_is_sent_once() -> None:
    driver = FakeDriver()
    samples = await ran(requests(*"abcdefg"), driver, concurrency=3)
    assert driver.max_open == 3
    assert [ask.prompt for ask in driver.asks] == list("abcdefg")
    assert sorted(sample.index for sample in samples) == list(range(7))
    assert {sample.num_output_tokens for sample in samples} == {2}


async def test_by_arrival_none_waits_for_another_to_end() -> None:
    driver = FakeDriver()
    driver.hold = asyncio.Event()
    planned = requests(*"abcd", at_s=(0.0, 0.001, 0.002, 0.02))
    load = asyncio.create_task(ran(planned, driver, concurrency=None))
    while driver.num_open < 4:
        await asyncio.sleep(0.001)
    driver.hold.set()
    sent_s = {sample.index: sample.sent_s for sample in await load}
    assert all(sent_s[each.index] >= (each.at_s or 0) - 0.001 for each in planned)


async def test_a_refused_request_is_a_sample_and_the_load_goes_on() -> None:
    refused, done = await ran(requests("refuse", "a"), FakeDriver(), concurrency=1)
    assert refused.failure == Failure("overloaded", "no room")
    assert done.failure is None


async def test_after_its_duration_a_load_begins_no_request() -> None:
    planned = requests(*"abc", at_s=(0.0, 0.01, 900.0))
    assert len(await ran(planned, FakeDriver(), None, duration_s=0.5)) == 2
    assert await ran(planned, FakeDriver(), 2, duration_s=0.0) == []


async def test_a_cancelled_load_ends_what_is_open_and_keeps_what_was_measured() -> None:
    driver, samples = FakeDriver(), list[Sample]()
    load = Load(iter(requests(*"abc")), 1, WORDS, seed=0)

    def on_sample(sample: Sample) -> None:
        samples.append(sample)
        driver.hold = asyncio.Event()

    running = asyncio.create_task(run_load(load, driver, on_sample))
    while driver.num_open == 0 or not samples:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (len(samples), driver.num_open) == (1, 0)

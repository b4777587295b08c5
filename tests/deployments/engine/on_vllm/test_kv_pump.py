"""From vLLM's own publisher over real sockets to a sink."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cache.types import ChainContext, Change, Tier
from deployments.engine.kv_events.batch_stream import BatchStream, EventSource
from deployments.engine.kv_events.pump import KvEventPump
from deployments.engine.kv_events.types import EventCounters
from tests.builders.kv_events import (
    CLEARED,
    MODEL,
    ONE_GROUP,
    Event,
    KeptChanges,
    removed,
    stored,
)
from tests.builders.until import until
from tests.reference.kv_events import chain

# Importing vLLM takes some 8 s.
pytestmark = pytest.mark.model


class Network:
    """Stands before the publisher's socket: loses batches, or doubles them."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.lost: set[int] = set()
        self.doubled: set[int] = set()
        self.num_sent = 0

    def send_multipart(self, frames: Sequence[bytes]) -> None:
        seq = int.from_bytes(frames[1], "big")
        if seq not in self.lost:
            for _ in range(1 + (seq in self.doubled)):
                self._socket.send_multipart(frames)
        self.num_sent += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Publisher:
    """vLLM's, of one data-parallel rank."""

    def __init__(self, folder: Path, dp_rank: int = 0, batches_kept: int = 100) -> None:
        from vllm.distributed.kv_events import ZmqEventPublisher  # noqa: PLC0415 - seconds

        self._publisher = ZmqEventPublisher(
            dp_rank,
            endpoint=f"ipc://{folder}/inproc-events",
            replay_endpoint=f"ipc://{folder}/inproc-replay",
            buffer_steps=batches_kept,
        )
        self.network = Network(self._publisher._pub)
        self._publisher._pub = self.network
        config = self._publisher.get_publisher_config()
        assert config.replay_endpoint is not None
        self.source = EventSource(config.endpoint, config.replay_endpoint)

    def publish(self, *events: Event) -> None:
        from vllm.distributed.kv_events import EventBatch  # noqa: PLC0415 - seconds

        self._publisher.publish(EventBatch(ts=0.5, events=list(events)))

    def close(self) -> None:
        self._publisher.shutdown()


@pytest.fixture
def publish_at(tmp_path: Path) -> Iterator[Callable[..., Publisher]]:
    made: list[Publisher] = []

    def make(**settings: int) -> Publisher:
        made.append(Publisher(tmp_path, **settings))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


def ours(tokens: list[int]) -> set[int]:
    return set(chain(tokens, ChainContext(MODEL), ONE_GROUP.groups, 0))


async def pump_of(*publishers: Publisher) -> KvEventPump:
    sources = {rank: publisher.source for rank, publisher in enumerate(publishers)}
    return await KvEventPump.start(MODEL, ONE_GROUP, sources)


async def test_a_sink_gets_what_the_engine_stores_removes_and_clears(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher, sink = publish_at(), KeptChanges()
    pump = await pump_of(publisher)
    pump.attach(sink)
    publisher.publish(stored([1, 2, 3, 4]))
    publisher.publish(removed([1, 2, 3, 4]))
    await until(lambda: pump.counters.num_batches == 2, 10)
    assert sink.held == {(0, "device"): ours([1, 2])}
    publisher.publish(CLEARED, stored([5, 6]))
    await until(lambda: pump.counters.num_batches == 3, 10)
    assert sink.told[-2:] == [("clear", 0, "device"), ("change", 0, "device")]
    assert sink.held == {(0, "device"): ours([5, 6])}
    assert set(pump.current_hashes(0, "device").tolist()) == ours([5, 6])
    await pump.stop()


async def test_what_was_published_before_is_there_from_the_start(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher = publish_at()
    publisher.publish(stored([1, 2]))
    publisher.publish(stored([3, 4]))
    # Its thread has sent them, so they can only be had again.
    await until(lambda: publisher.network.num_sent == 2, 10)
    pump = await pump_of(publisher)
    await until(lambda: pump.counters.num_batches == 2, 10)
    assert set(pump.current_hashes(0, "device").tolist()) == ours([1, 2]) | ours([3, 4])
    await pump.stop()


async def test_each_data_parallel_rank_is_followed_at_sockets_of_its_own(
    publish_at: Callable[..., Publisher],
) -> None:
    publishers, sink = [publish_at(dp_rank=rank) for rank in (0, 1)], KeptChanges()
    assert publishers[1].source.endpoint == publishers[0].source.endpoint + "_dp1"
    pump = await pump_of(*publishers)
    pump.attach(sink)
    publishers[0].publish(stored([1, 2]))
    publishers[1].publish(stored([3, 4]))
    await until(lambda: pump.counters.num_batches == 2, 10)
    assert sink.held == {(0, "device"): ours([1, 2]), (1, "device"): ours([3, 4])}
    assert pump.dp_ranks == (0, 1)
    await pump.stop()


async def test_a_gap_is_filled_from_what_the_publisher_keeps(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher, sink = publish_at(), KeptChanges()
    publisher.network.lost = {1, 2, 5}
    publisher.network.doubled = {0, 3}
    pump = await pump_of(publisher)
    pump.attach(sink)
    prompts = [[n, n] for n in range(7)]
    for prompt in prompts:
        publisher.publish(stored(prompt))
    await until(lambda: pump.counters.num_batches == 7, 10)
    assert sink.held[0, "device"] == set().union(*map(ours, prompts))
    assert [kind for kind, *_ in sink.told if kind != "change"] == []
    counters = pump.counters
    assert counters.num_lost == 0
    assert counters.num_gaps > 0 and counters.num_duplicates > 0
    assert counters.num_replayed >= 3
    await pump.stop()


async def test_a_gap_at_the_end_is_found_when_nothing_comes_for_a_while(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher, counters = publish_at(), EventCounters()
    publisher.network.lost = {0}
    stream = BatchStream(publisher.source, counters, idle_s=0.05)
    publisher.publish(CLEARED)
    payloads: list[bytes] = []
    async with asyncio.timeout(10):
        while not payloads:
            burst = await stream.receive()
            payloads, has_lost = burst.payloads, burst.has_lost
    assert (len(payloads), has_lost) == (1, False)
    stream.close()


async def test_what_the_publisher_no_longer_keeps_is_lost_with_all_before_it(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher, sink = publish_at(batches_kept=2), KeptChanges()
    pump = await pump_of(publisher)
    pump.attach(sink)
    publisher.publish(stored([0, 0]))
    await until(lambda: pump.counters.num_batches == 1, 10)
    publisher.network.lost = {1, 2, 3}
    for n in range(1, 5):
        publisher.publish(stored([n, n]))
    await until(lambda: pump.counters.num_lost == 1 and pump.counters.num_batches > 1, 10)
    assert ("lost", 0, "device") in sink.told
    # Of the publisher's two batches the first may have made room for the next.
    assert sink.held[0, "device"] in (ours([4, 4]), ours([3, 3]) | ours([4, 4]))
    assert set(pump.current_hashes(0, "device").tolist()) == sink.held[0, "device"]
    await pump.stop()


async def test_without_any_answer_a_gap_is_lost(
    publish_at: Callable[..., Publisher], tmp_path: Path
) -> None:
    publisher, counters = publish_at(), EventCounters()
    nobody = EventSource(publisher.source.endpoint, f"ipc://{tmp_path}/nobody")
    stream = BatchStream(nobody, counters, idle_s=5, replay_timeout_s=0.05)
    assert (await stream.catch_up()).payloads == []
    publisher.network.lost = {0}
    publisher.publish(CLEARED)
    publisher.publish(CLEARED)
    burst = await stream.receive()
    assert (len(burst.payloads), burst.has_lost, counters.num_lost) == (1, True, 1)
    stream.close()


async def test_batches_that_make_no_sense_are_counted_and_passed_over(
    publish_at: Callable[..., Publisher], caplog: pytest.LogCaptureFixture
) -> None:
    publisher = publish_at()
    pump = await pump_of(publisher)
    for _ in range(3):
        publisher.publish({"type": "BlockPainted"})
    publisher.publish(stored([1, 2]))
    await until(lambda: pump.counters.num_batches == 4, 10)
    assert pump.counters.num_malformed == 3
    assert caplog.text.count("makes no sense") == 1
    assert set(pump.current_hashes(0, "device").tolist()) == ours([1, 2])
    await pump.stop()


class Failing(KeptChanges):
    """Fails at its first change."""

    has_failed = False

    def on_change(self, dp_rank: int, tier: Tier, change: Change) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError("no room")
        super().on_change(dp_rank, tier, change)


async def test_a_sink_that_fails_is_told_that_all_is_lost_and_then_of_what_follows(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher, sink = publish_at(), Failing()
    pump = await pump_of(publisher)
    pump.attach(sink)
    publisher.publish(stored([1, 2]))
    await until(lambda: pump.counters.num_lost == 1, 10)
    publisher.publish(stored([3, 4]))
    await until(lambda: ("change", 0, "device") in sink.told, 10)
    assert sink.told[0] == ("lost", 0, "device")
    assert sink.held == {(0, "device"): ours([3, 4])}
    assert set(pump.current_hashes(0, "device").tolist()) == ours([3, 4])
    await pump.stop()


async def test_a_sink_that_comes_later_goes_on_from_what_is_held(
    publish_at: Callable[..., Publisher],
) -> None:
    publisher, first, second = publish_at(), KeptChanges(), KeptChanges()
    pump = await pump_of(publisher)
    pump.attach(first)
    publisher.publish(stored([1, 2]))
    await until(lambda: pump.counters.num_batches == 1, 10)
    pump.attach(second)
    second.held[0, "device"] = set(pump.current_hashes(0, "device").tolist())
    publisher.publish(stored([3, 4]))
    await until(lambda: pump.counters.num_batches == 2, 10)
    assert first.held[0, "device"] == ours([1, 2])
    assert second.held[0, "device"] == ours([1, 2]) | ours([3, 4])
    await pump.stop()

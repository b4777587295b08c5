"""What an engine's pump tells, on its way to the index."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from cache.mirror import Mirror
from cache.settings import CacheSection
from cache.types import BlockGroup, Change, Hashes, Holder, Tier
from deployments.engine.index_feed import IndexFeed
from deployments.engine.kv_events.types import ChangeSink
from deployments.prefix_store import PrefixStore
from tests.builders.metadata_server import running, valkey
from tests.builders.until import until

GROUPS = (BlockGroup("full", 16),)
DEVICE, HOST = Holder("e1"), Holder("e1", 0, "host")


def hashes(*numbers: int) -> Hashes:
    return np.array(numbers, np.uint64)


class FakePump:
    """Tells what the test tells it; `held` is what the caches have."""

    dp_ranks = (0,)

    def __init__(self) -> None:
        self.sink: ChangeSink | None = None
        self.held: dict[tuple[int, Tier], Hashes] = {}

    def attach(self, sink: ChangeSink | None) -> None:
        self.sink = sink

    def current_hashes(self, dp_rank: int, tier: Tier) -> Hashes:
        return self.held.get((dp_rank, tier), hashes())

    @property
    def listener(self) -> ChangeSink:
        assert self.sink is not None
        return self.sink


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[PrefixStore]:
    with running(valkey(), tmp_path) as server:
        made = PrefixStore(CacheSection(), server.url, "app")
        yield made
        await made.close()


@pytest.fixture
def pump() -> FakePump:
    return FakePump()


@pytest_asyncio.fixture
async def feed(store: PrefixStore, pump: FakePump) -> AsyncIterator[IndexFeed]:
    made = IndexFeed(store.of_model("m", GROUPS), "e1", pump)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def mirror(store: PrefixStore) -> AsyncIterator[Mirror]:
    made = Mirror(store.of_model("m", GROUPS), GROUPS)
    made.start()
    yield made
    await made.close()


def lengths(mirror: Mirror, *numbers: int) -> Mapping[Holder, int]:
    """Tokens that each holder has of a chain of these blocks."""
    found = mirror.lookup([hashes(*numbers)])
    holders = {holder: int(found[bit]) for bit, holder in mirror.live_holders().items()}
    return {holder: tokens for holder, tokens in holders.items() if tokens}


async def test_it_begins_with_what_is_there_and_follows_what_changes(
    feed: IndexFeed, pump: FakePump, mirror: Mirror
) -> None:
    pump.held[0, "device"] = hashes(1, 2)
    feed.start()
    await until(lambda: lengths(mirror, 1, 2, 3) == {DEVICE: 32}, 10)
    pump.listener.on_change(0, "device", Change(0, hashes(3), hashes()))
    await until(lambda: lengths(mirror, 1, 2, 3) == {DEVICE: 48}, 10)
    pump.listener.on_change(0, "device", Change(1, hashes(), hashes(2)))
    await until(lambda: lengths(mirror, 1, 2, 3) == {DEVICE: 16}, 10)
    assert feed.counts()["num_epochs"] == 1


async def test_host_memory_is_a_holder_from_its_first_block_on(
    feed: IndexFeed, pump: FakePump, mirror: Mirror
) -> None:
    feed.start()
    await until(lambda: set(mirror.live_holders().values()) == {DEVICE}, 10)
    pump.held[0, "host"] = hashes(7)
    pump.listener.on_change(0, "host", Change(0, hashes(7), hashes()))
    await until(lambda: lengths(mirror, 7) == {HOST: 16}, 10)


@pytest.mark.parametrize("end", ["on_clear", "on_lost"])
async def test_what_was_told_is_void_where_the_cache_is_cleared_or_unknown(
    feed: IndexFeed, pump: FakePump, mirror: Mirror, end: str
) -> None:
    pump.held[0, "device"] = hashes(1, 2)
    feed.start()
    await until(lambda: bool(lengths(mirror, 1, 2)), 10)
    pump.held[0, "device"] = hashes()
    getattr(pump.listener, end)(0, "device")
    await until(lambda: not lengths(mirror, 1, 2), 10)
    pump.held[0, "device"] = hashes(1)
    pump.listener.on_change(0, "device", Change(0, hashes(1), hashes()))
    await until(lambda: lengths(mirror, 1, 2) == {DEVICE: 16}, 10)


async def test_a_replica_that_ends_takes_its_holders_along(
    feed: IndexFeed, pump: FakePump, mirror: Mirror
) -> None:
    pump.held[0, "device"] = hashes(1, 2)
    feed.start()
    await until(lambda: bool(lengths(mirror, 1, 2)), 10)
    await feed.close()
    assert pump.sink is None
    await until(lambda: not mirror.live_holders(), 10)

"""The mirror against servers that are killed, trimmed and emptied."""

import asyncio
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cache.mirror import Mirror
from cache.mirror_view import MirrorView, MissedEntriesError
from cache.settings import CacheSection
from cache.store.registry import Registry
from cache.store.server_link import ServerLink
from cache.store.stream import Begun, Changed, Ended
from cache.types import Change, Epoch, EpochBit, Holder
from infra.tasks import end_all
from tests.builders.fake_index_server import FakeIndexServer
from tests.builders.metadata_server import Server, running, valkey
from tests.builders.until import until
from tests.cache.index_world import ALPHABET, GROUPS, World, hashes_of, some_of

SECTION = CacheSection(lease_s=3.0, timeout_s=1.0)
A = Epoch(Holder("a"), EpochBit(0), 7)
B = Epoch(Holder("b"), EpochBit(70), 9)


def view(*epochs: Epoch, last_index: int = 100) -> MirrorView:
    last_number = max((epoch.number for epoch in epochs), default=0)
    registry = Registry(b"abc", epochs, {}, last_number, last_index)
    return MirrorView(1 << 20, registry)


def changed(index: int, epoch: Epoch, seq: int, stored: set[int], removed: set[int]) -> Changed:
    change = Change(seq, hashes_of(stored), hashes_of(removed))
    return Changed(index, epoch.bit, epoch.number, change)


def blocks_of(one: MirrorView, epoch: Epoch) -> set[int]:
    lengths = {b: one.table.leading_blocks(hashes_of([b]), one.live_mask) for b in ALPHABET}
    return {b for b, found in lengths.items() if epoch.bit < len(found) and found[epoch.bit]}


def test_an_epoch_that_ends_is_void_at_once() -> None:
    one = view(A, B)
    one.apply(changed(101, A, 0, {1, 2}, set()))
    one.apply(changed(102, B, 0, {1}, set()))
    one.apply(Ended(103, A.bit, A.number))
    assert (blocks_of(one, A), blocks_of(one, B)) == (set(), {1})
    one.check_invariants()
    one.clean()
    assert len(one.table) == 1
    one.check_invariants()


def test_a_bit_that_is_given_again_brings_nothing_with_it() -> None:
    one = view(A)
    one.apply(changed(101, A, 0, {1, 2}, set()))
    one.apply(Ended(102, A.bit, A.number))
    heir = Epoch(Holder("c"), A.bit, 12)
    one.apply(Begun(103, heir))
    one.apply(changed(104, heir, 0, {2}, set()))
    assert blocks_of(one, heir) == {2}
    # What the ended one has told meanwhile.
    one.apply(changed(105, A, 1, {1}, set()))
    assert blocks_of(one, heir) == {2}
    one.check_invariants()


def test_entries_that_come_twice_change_nothing() -> None:
    one = view(A)
    entries = [changed(101, A, 0, {1, 2}, set()), changed(102, A, 1, set(), {1})]
    for entry in [*entries, *entries]:
        one.apply(entry)
    one.apply(changed(103, A, 0, {1}, set()))
    assert blocks_of(one, A) == {2}
    assert one.num_applied == 3


@pytest.mark.parametrize(
    "entry",
    [
        changed(102, A, 0, {1}, set()),
        changed(101, A, 1, {1}, set()),
        changed(101, Epoch(Holder("c"), EpochBit(3), 55), 0, {1}, set()),
        Begun(101, Epoch(Holder("c"), A.bit, 55)),
    ],
    ids=["entries", "changes", "a beginning", "an end"],
)
def test_what_is_missing_is_noticed(entry: Changed | Begun) -> None:
    with pytest.raises(MissedEntriesError):
        view(A).apply(entry)


def test_a_snapshot_has_the_bits_of_live_epochs_alone() -> None:
    one = view(A)
    one.merge(hashes_of([1, 2]), np.array([[1, 64], [2, 64]], np.uint64))
    assert blocks_of(one, A) == {1}
    assert len(one.table) == 1
    one.check_invariants()


class Living(World):
    """A world that lives by itself, in the background."""

    def __init__(self, server: Server) -> None:
        super().__init__(ServerLink(SECTION, server.url), SECTION, 2, time.monotonic)
        for mirror in self.mirrors:
            mirror.start()
        for name in ("a", "b"):
            self.replica(name).publisher.start()

    @property
    def is_right(self) -> bool:
        return all(
            mirror.state == "current" and self.told_by(mirror) == self.expected()
            for mirror in self.mirrors
        )

    async def close(self) -> None:
        for replica in self.replicas.values():
            await replica.publisher.close()
        for mirror in self.mirrors:
            await mirror.close()
        await self.link.close()

    def change(self, choice: random.Random) -> None:
        self.replica(choice.choice("ab")).change(some_of(choice), some_of(choice))


@asynccontextmanager
async def living(server: Server) -> AsyncIterator[Living]:
    world = Living(server)
    try:
        yield world
        world.check_invariants()
    finally:
        await world.close()


@asynccontextmanager
async def under_load(world: Living) -> AsyncIterator[None]:
    """Changes all the time, in the block."""

    async def change_all_the_time() -> None:
        choice = random.Random(3)
        while True:
            world.change(choice)
            await asyncio.sleep(0.002)

    task = asyncio.create_task(change_all_the_time())
    try:
        yield
    finally:
        await end_all([task])


async def test_it_follows_and_says_what_it_has_done(server: Server) -> None:
    async with living(server) as world:
        mirror = world.mirrors[0]
        assert mirror.state == "empty"
        assert len(mirror.lookup([hashes_of([1])])) == 0
        await until(lambda: world.is_right and len(mirror.live_holders()) == 2, 40)
        choice = random.Random(0)
        for _ in range(200):
            world.change(choice)
            await asyncio.sleep(0)
        await until(lambda: world.is_right, 40)
        assert mirror.counts.gaps == mirror.counts.failures == 0
        assert mirror.counts.applied_blocks > 0
        assert mirror.lag_s < 5
        assert mirror.num_blocks == len(set().union(*world.expected().values()))
        assert mirror.num_bytes > 0
        await until(lambda: mirror.lag_entries == 0, 40)


@pytest.mark.parametrize("comes_back", ["empty", "old"])
async def test_a_server_that_is_killed_under_load_comes_back_and_all_is_right(
    server: Server, comes_back: str
) -> None:
    async with living(server) as world:
        await until(lambda: world.is_right, 40)
        async with under_load(world):
            await asyncio.sleep(0.2)
            if comes_back == "old":
                server.save()
                await asyncio.sleep(0.2)
            server.kill()
            await until(lambda: all(m.state == "stale" for m in world.mirrors), 40)
            # It answers on, with what it had.
            assert world.mirrors[0].live_holders()
            server.start()
            await until(lambda: all(m.state == "current" for m in world.mirrors), 40)
            assert all(m.counts.failures and m.counts.reloads for m in world.mirrors)
        await until(lambda: world.is_right, 40)


async def test_a_server_that_stands_still_makes_it_stale_and_no_more(server: Server) -> None:
    assert server.process is not None
    async with living(server) as world:
        world.change(random.Random(0))
        await until(lambda: world.is_right, 40)
        server.process.send_signal(signal.SIGSTOP)
        await until(lambda: world.mirrors[0].state == "stale", 40)
        world.change(random.Random(1))
        server.process.send_signal(signal.SIGCONT)
        await until(lambda: world.is_right, 40)


async def test_a_replica_that_dies_is_void_when_its_lease_is_over(server: Server) -> None:
    async with living(server) as world:
        for block in ALPHABET[:4]:
            world.replica("a").change({block}, set())
        await until(lambda: world.is_right, 40)
        # Killed: it can say nothing more.
        await end_all(world.replicas.pop("a").publisher._tasks)
        await until(lambda: world.is_right, 40)
        assert {h.replica_id for h in world.mirrors[0].live_holders().values()} == {"b"}


async def test_a_flushed_server_is_filled_again(server: Server) -> None:
    async with living(server) as world:
        world.change(random.Random(0))
        await until(lambda: world.is_right, 40)
        with server.client() as client:
            client.flushall()
        world.change(random.Random(1))
        await until(lambda: all(m.counts.reloads for m in world.mirrors), 40)
        await until(lambda: world.is_right, 40)


async def test_who_is_too_far_behind_reads_a_snapshot() -> None:
    section = SECTION.model_copy(update={"stream_length": 10})
    world = World(FakeIndexServer(), section, num_mirrors=1)
    await world.step_replica("a")
    await world.settle()
    before = world.mirrors[0].counts.gaps
    for k in range(60):
        world.replica("a").change({ALPHABET[k % 5]}, {ALPHABET[(k + 1) % 5]})
        await world.step_replica("a")
    await world.step_mirror(0)
    assert world.mirrors[0].counts.gaps == before + 1
    assert world.mirrors[0].state == "stale"
    await world.settle()
    assert world.told_by(world.mirrors[0]) == world.expected()


async def test_a_newcomer_knows_what_others_know(server: Server) -> None:
    async with living(server) as world:
        async with under_load(world):
            await asyncio.sleep(0.2)
            newcomer = Mirror(world.store(), GROUPS)
            newcomer.start()
            world.mirrors.append(newcomer)
            await asyncio.sleep(0.2)
        await until(lambda: world.is_right, 40)
        assert newcomer.counts.gaps == 0


@settings(max_examples=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_a_real_server_obeys_the_same_laws(choice: random.Random) -> None:
    asyncio.run(_drive_a_real_one(choice))


_server: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def one_server() -> Iterator[None]:
    with (
        tempfile.TemporaryDirectory(prefix="ix-") as name,
        running(valkey(), Path(name)) as server,
    ):
        _server.append(server)
        yield
        _server.clear()


async def _drive_a_real_one(choice: random.Random) -> None:
    (server,) = _server
    section = SECTION.model_copy(update={"max_pending_blocks": 6, "lease_s": 30.0})
    with server.client() as client:
        client.flushall()
        link = ServerLink(section, server.url)
        world = World(link, section)
        for _ in range(40):
            await _random_event(world, choice)
            world.check_invariants()
            if choice.random() < 0.03:
                client.delete(*client.scan_iter("{ci*}r"), "{ci}none")
        await world.settle()
        assert [world.told_by(m) for m in world.mirrors] == [world.expected()] * 2
        await world.scrub_all()
        assert await world.told_by_store() == (world.expected(), set())
        await link.close()


async def _random_event(world: World, choice: random.Random) -> None:
    name = choice.choice("abc")
    match choice.randrange(10):
        case 0 | 1 | 2:
            world.replica(name).change(some_of(choice), some_of(choice))
        case 3:
            world.replica(name).repeat()
        case 4:
            world.replica(name).change(some_of(choice), set(), skipped=choice.randrange(2))
        case 5 if choice.random() < 0.3:
            world.replica(name).clear()
        case 6 | 7:
            await asyncio.gather(*(world.step_replica(n) for n in list(world.replicas)))
        case 8:
            await asyncio.gather(*(world.step_mirror(k) for k in range(2)))
        case 9:
            await world.step_scrubber(choice.randrange(2))

"""The scrub: bits of ended epochs leave all entries before they are given out again."""

import asyncio
import random

import numpy as np
import pytest

from cache.settings import CacheSection
from cache.store import scrub
from cache.store.link import EpochEndedError
from cache.types import Change, Holder
from tests.builders.fake_index_server import FakeIndexServer
from tests.builders.metadata_server import Server
from tests.cache.index_world import World, hashes_of, until_idle
from tests.cache.test_store import CHAIN, NAMESPACE, NONE, A, B, Bench

SECTION = CacheSection(lease_s=30.0)


async def test_a_bit_is_given_again_only_after_a_scrub(server: Server) -> None:
    bench = Bench(server)
    first = await bench.store.begin_epoch(A)
    await bench.store_blocks(first, CHAIN)
    await bench.store.end_epoch(first)
    second = await bench.store.begin_epoch(B)
    assert second.bit == 1
    await bench.store_blocks(second, CHAIN[:3])
    scrubber = scrub.Scrubber(bench.link, bench.store)
    await until_idle(scrubber.step)
    assert scrubber.num_freed == 1
    assert await bench.masks() == [2, 2, 2]
    assert len(bench.entry_keys()) == 3
    assert (await bench.store.begin_epoch(A)).bit == 0
    await bench.link.close()


async def test_who_does_not_know_of_its_end_cannot_write_after_the_scrub(
    server: Server,
) -> None:
    bench = Bench(server)
    ended = await bench.store.begin_epoch(A)
    await bench.store.end_epoch(ended)
    await until_idle(scrub.Scrubber(bench.link, bench.store).step)
    heir = await bench.store.begin_epoch(B)
    assert heir.bit == ended.bit
    with pytest.raises(EpochEndedError):
        await bench.store_blocks(ended, CHAIN)
    await bench.store_blocks(heir, CHAIN[:2])
    assert await bench.masks() == [1, 1]
    await bench.link.close()


async def test_it_goes_in_steps_and_another_goes_on_where_one_went_away(
    server: Server,
) -> None:
    bench = Bench(server)
    ended = await bench.store.begin_epoch(A)
    hashes = np.random.default_rng(0).integers(1, 2**64, 20_000, np.uint64)
    await bench.store_blocks(ended, hashes)
    await bench.store.end_epoch(ended)
    first, second = (scrub.Scrubber(bench.link, bench.store) for _ in range(2))
    for _ in range(6):
        assert await first.step()
    num_left = len(bench.entry_keys())
    assert 12_000 < num_left < 20_000
    assert not await second.step()
    taken = bench.client.hget(NAMESPACE.registry_key, "s")
    assert isinstance(taken, bytes)
    token, _, state = taken.split(b":", 2)
    bench.client.hset(NAMESPACE.registry_key, "s", b"%b:1:%b" % (token, state))
    assert await second.step()
    assert await second.step()
    assert len(bench.entry_keys()) < num_left
    assert not await first.step()
    await until_idle(second.step)
    assert bench.entry_keys() == []
    await bench.link.close()


async def test_what_a_lost_registry_left_behind_is_deleted(server: Server) -> None:
    bench = Bench(server)
    before = await bench.store.begin_epoch(A)
    await bench.store_blocks(before, CHAIN)
    bench.client.delete(NAMESPACE.registry_key)
    after = await bench.store.begin_epoch(B)
    await bench.store_blocks(after, CHAIN[:4])
    assert len(bench.entry_keys()) == len(CHAIN) + 4
    bench.client.set("{ciother.}x", "not ours")
    await until_idle(scrub.Scrubber(bench.link, bench.store).step)
    assert len(bench.entry_keys()) == 4
    assert bench.client.get("{ciother.}x") == b"not ours"
    await bench.link.close()


async def test_where_nothing_is_to_do_nothing_is_done(server: Server) -> None:
    bench = Bench(server)
    scrubber = scrub.Scrubber(bench.link, bench.store)
    assert not await scrubber.step()
    await bench.store.begin_epoch(A)
    await until_idle(scrubber.step)
    bench.client.config_resetstat()
    assert not await scrubber.step()
    assert "cmdstat_scan" not in bench.client.info("commandstats")
    await bench.link.close()


async def test_a_restart_of_the_server_begins_the_pass_again() -> None:
    fake = FakeIndexServer()
    world = World(fake, SECTION)
    store = world.store()
    epoch = await store.begin_epoch(Holder("a"))
    blocks = hashes_of(set(range(1, 31)))
    await store.mark(epoch, Change(0, blocks, NONE))
    await store.end_epoch(epoch)
    scrubber = world.scrubbers[0]
    # It saves between two pages, and comes back as it was then.
    for _ in range(2):
        assert await scrubber.step()
    saved = fake.saved()
    for _ in range(2):
        assert await scrubber.step()
    fake.restart(saved)
    await until_idle(scrubber.step)
    assert fake.strings == {}
    assert (await store.registry()).ended == {}


def test_two_scrubbers_at_once_do_no_harm() -> None:
    for seed in range(30):
        asyncio.run(_scrub_together(random.Random(seed)))


async def _scrub_together(choice: random.Random) -> None:
    fake = FakeIndexServer()
    world = World(fake, SECTION)
    store = world.store()
    kept = await store.begin_epoch(Holder("kept"))
    for name in ("x", "y"):
        epoch = await store.begin_epoch(Holder(name))
        await store.mark(epoch, Change(0, hashes_of(set(range(1, 12))), NONE))
        await store.end_epoch(epoch)
    await store.mark(kept, Change(0, hashes_of([1, 5, 30]), NONE))
    for _ in range(800):
        await world.step_scrubber(choice.randrange(2))
        if choice.random() < 0.05:
            fake.now_s += 40
    assert sorted(fake.strings.values()) == [b"\x01" + bytes(7)] * 3
    assert (await store.registry()).ended == {}

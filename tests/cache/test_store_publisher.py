"""A publisher against a server in memory: order, bounds, losses."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.settings import CacheSection
from cache.store import publisher
from cache.store.link import StoreError
from cache.store.publisher import as_entries, joined
from cache.store.stream import MAX_ENTRY_HASHES, Changed
from cache.types import Change
from tests.builders.fake_index_server import FakeIndexServer
from tests.cache.index_world import FakeReplica, World, hashes_of, until_idle

SECTION = CacheSection(lease_s=30.0).model_copy(update={"max_pending_blocks": 10})


class Scene:
    def __init__(self) -> None:
        self.server = FakeIndexServer()
        self.world = World(self.server, SECTION, num_mirrors=1)
        self.replica: FakeReplica = self.world.replica("a")
        self.publisher = self.replica.publisher

    async def told(self) -> set[int]:
        """What the store says of it, which is what a mirror says."""
        told, _ = await self.world.told_by_store()
        await self.world.settle()
        assert self.world.told_by(self.world.mirrors[0]) == told
        return told["a"]

    async def changes(self) -> list[Change]:
        entries = await self.world.store().entries_after(0, wait_s=0)
        return [entry.change for entry in entries if isinstance(entry, Changed)]


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_changes_are_told_in_their_order(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1, 2, 3}, set())
    scene.replica.change(set(), {1})
    scene.replica.change({4}, {2})
    scene.replica.change({1}, set())
    await until_idle(scene.publisher.step)
    assert await scene.told() == scene.replica.blocks == {1, 3, 4}
    assert len(await scene.changes()) == 1


async def test_what_a_holder_has_is_told_when_its_epoch_begins(scene: Scene) -> None:
    scene.replica.change({1, 2, 3}, set())
    assert scene.publisher.epoch is None
    await until_idle(scene.publisher.step)
    assert await scene.told() == {1, 2, 3}


async def test_a_batch_whose_answer_got_lost_is_told_once(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1, 2}, set())
    step = asyncio.create_task(scene.publisher.step())
    num_entries = len(scene.server.stream)
    while len(scene.server.stream) == num_entries:
        await asyncio.sleep(0)
    scene.server.is_away = True
    with pytest.raises(StoreError):
        await step
    scene.server.is_away = False
    epoch = scene.publisher.epoch
    await until_idle(scene.publisher.step)
    assert scene.publisher.epoch == epoch
    assert [change.seq for change in await scene.changes()] == [0]
    assert await scene.told() == {1, 2}


async def test_changes_collect_while_the_store_is_away(scene: Scene) -> None:
    await scene.publisher.step()
    scene.server.is_away = True
    scene.replica.change({1, 2}, set())
    scene.replica.change({3}, {1})
    with pytest.raises(StoreError):
        await scene.publisher.step()
    scene.server.is_away = False
    epoch = scene.publisher.epoch
    await until_idle(scene.publisher.step)
    assert scene.publisher.epoch == epoch
    assert await scene.told() == {2, 3}


async def test_beyond_the_bound_all_is_told_anew_in_another_epoch(scene: Scene) -> None:
    await scene.publisher.step()
    before = scene.publisher.epoch
    scene.server.is_away = True
    for block in range(1, 30):
        scene.replica.change({block}, {block - 3} if block > 3 else set())
        assert scene.publisher.num_pending_blocks <= 12
        scene.publisher.check_invariants()
    assert scene.publisher.counts.overflows == 1
    scene.server.is_away = False
    await until_idle(scene.publisher.step)
    assert scene.publisher.epoch != before
    assert await scene.told() == scene.replica.blocks == {27, 28, 29}


async def test_after_a_gap_all_is_told_anew(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1}, set())
    await until_idle(scene.publisher.step)
    before = scene.publisher.epoch
    scene.replica.blocks = {5}
    scene.replica.change({6}, set(), skipped=1)
    await until_idle(scene.publisher.step)
    assert scene.publisher.counts.gaps == 1
    assert scene.publisher.epoch != before
    assert await scene.told() == {5, 6}


async def test_a_change_that_comes_twice_counts_once(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1}, set())
    scene.replica.repeat()
    await until_idle(scene.publisher.step)
    assert await scene.told() == {1}


async def test_a_cleared_cache_begins_another_epoch(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1, 2}, set())
    await until_idle(scene.publisher.step)
    before = scene.publisher.epoch
    scene.replica.clear()
    scene.replica.change({3}, set())
    await until_idle(scene.publisher.step)
    assert scene.publisher.epoch != before
    assert await scene.told() == {3}


async def test_a_server_that_was_restarted_is_told_all_anew(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1, 2}, set())
    await until_idle(scene.publisher.step)
    old_data = scene.server.saved()
    scene.replica.change({3}, {1})
    await until_idle(scene.publisher.step)
    before = scene.publisher.epoch
    scene.server.restart(old_data)
    scene.world.clock.now_s += SECTION.lease_s / 2
    await until_idle(scene.publisher.step)
    assert scene.publisher.epoch != before
    assert await scene.told() == {2, 3}


async def test_an_epoch_whose_lease_is_over_is_followed_by_another(scene: Scene) -> None:
    await scene.publisher.step()
    scene.replica.change({1}, set())
    await until_idle(scene.publisher.step)
    before = scene.publisher.epoch
    scene.server.now_s += 2 * SECTION.lease_s
    await scene.world.store().sweep()
    scene.replica.change({2}, set())
    await until_idle(scene.publisher.step)
    assert scene.publisher.epoch != before
    assert await scene.told() == {1, 2}


async def test_it_works_in_the_background_and_ends_its_epoch_at_the_end(scene: Scene) -> None:
    scene.publisher.start()
    scene.replica.change({1, 2}, set())
    while not await scene.changes():
        await asyncio.sleep(0)
    assert (await scene.world.store().registry()).epochs == (scene.publisher.epoch,)
    await scene.publisher.close()
    assert (await scene.world.store().registry()).epochs == ()


async def test_it_comes_back_by_itself_however_long_the_store_was_away(scene: Scene) -> None:
    scene.server.is_away = True
    scene.publisher.start()
    scene.replica.change({1, 2}, set())
    while not scene.publisher.counts.failures:
        await asyncio.sleep(0.001)
    scene.server.is_away = False
    while not await scene.changes():
        await asyncio.sleep(0.001)
    await scene.publisher.close()


async def test_it_outlives_a_pump_that_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_LAST_RETRY_S", 0.001)
    blocks = scene.replica.blocks
    # Its hashes cannot be made of this.
    scene.replica.blocks = {-1}
    scene.publisher.start()
    while len(scene.server.stream) < 2:
        await asyncio.sleep(0.001)
    scene.replica.blocks = blocks
    scene.replica.change({3}, set())
    while not await scene.changes():
        await asyncio.sleep(0.001)
    await scene.publisher.close()


BLOCKS = st.sets(st.integers(1, 4), max_size=3)


@given(st.lists(st.tuples(BLOCKS, BLOCKS), min_size=1, max_size=6), BLOCKS)
def test_joined_changes_have_the_effect_of_one_after_the_other(
    changes: list[tuple[set[int], set[int]]], before: set[int]
) -> None:
    expected = set(before)
    for stored, removed in changes:
        expected = (expected | stored) - removed
    net = joined([Change(0, hashes_of(s - r), hashes_of(r)) for s, r in changes])
    stored, removed = set(net.stored.tolist()), set(net.removed.tolist())
    assert not stored & removed
    assert (before | stored) - removed == expected


@pytest.mark.parametrize(("num_stored", "num_removed"), [(0, 1), (3, 4), (512, 1), (1500, 700)])
def test_entries_of_the_stream_are_bounded(num_stored: int, num_removed: int) -> None:
    stored = np.arange(1, num_stored + 1, dtype=np.uint64)
    removed = np.arange(10_000, 10_000 + num_removed, dtype=np.uint64)
    entries = as_entries(Change(0, stored, removed), first_seq=7)
    assert [entry.seq for entry in entries] == list(range(7, 7 + len(entries)))
    assert all(0 < len(e.stored) + len(e.removed) <= MAX_ENTRY_HASHES for e in entries)
    assert np.array_equal(np.concatenate([e.stored for e in entries]), stored)
    assert np.array_equal(np.concatenate([e.removed for e in entries]), removed)

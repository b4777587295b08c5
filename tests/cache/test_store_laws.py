"""Whatever happens to replicas and server: store and mirrors come to say the same as
the slow twin, and bits of ended epochs are left nowhere."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.settings import CacheSection
from cache.store.link import StoreError
from tests.builders.fake_index_server import FakeIndexServer
from tests.cache.index_world import ALPHABET, World, until_idle

NAMES = st.sampled_from(["a", "b", "c"])
BLOCKS = st.sets(st.sampled_from(ALPHABET), max_size=4)
SMALL = CacheSection(lease_s=30.0).model_copy(
    update={"stream_length": 6, "max_pending_blocks": 6}
)

EVENTS = st.one_of(
    st.tuples(st.just("do"), NAMES, BLOCKS, BLOCKS),
    st.tuples(st.just("do"), NAMES, BLOCKS, BLOCKS),
    st.tuples(st.just("do"), NAMES, BLOCKS, BLOCKS),
    st.tuples(st.just("change"), NAMES, BLOCKS, BLOCKS),
    st.tuples(st.just("gap"), NAMES, BLOCKS),
    st.tuples(st.just("repeat"), NAMES),
    st.tuples(st.just("clear"), NAMES),
    st.tuples(st.just("die"), NAMES),
    st.tuples(st.just("tell"), NAMES),
    st.tuples(st.just("tell"), NAMES),
    st.tuples(st.just("follow"), st.integers(0, 1)),
    st.tuples(st.just("follow"), st.integers(0, 1)),
    st.tuples(st.just("scrub"), st.integers(0, 1)),
    st.tuples(st.just("purge"), st.integers(0, 1)),
    st.tuples(st.just("rest")),
    st.tuples(st.just("rest")),
    st.tuples(st.just("turn"), st.integers(1, 8)),
    st.tuples(st.just("turn"), st.integers(1, 8)),
    st.tuples(st.just("time"), st.sampled_from([2.0, 11.0, 40.0])),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("save")),
    st.tuples(st.just("restart"), st.sampled_from(["empty", "old", "now"])),
    st.tuples(st.just("lose"), st.sampled_from(["registry", "stream", "entries"])),
)


class FakeWorld(World):
    """With a server to which anything can happen."""

    def __init__(self) -> None:
        self.server = FakeIndexServer()
        super().__init__(self.server, SMALL)
        self.saved = self.server.saved()
        self.steps: dict[str, asyncio.Task[None]] = {}

    async def on_event(self, kind: str, *args: Any) -> None:
        await getattr(self, f"on_{kind}")(*args)
        self.check_invariants()

    async def end_steps(self) -> None:
        await asyncio.gather(*self.steps.values())

    async def on_change(self, name: str, stored: set[int], removed: set[int]) -> None:
        self.replica(name).change(stored, removed)

    async def on_do(self, name: str, stored: set[int], removed: set[int]) -> None:
        """A change, told and followed, as on a day on which nothing happens."""
        await self.on_change(name, stored, removed)
        await self.end_steps()
        await self.on_tell(name)
        await self.end_steps()
        await self.on_follow(0)
        await self.end_steps()

    async def on_gap(self, name: str, stored: set[int]) -> None:
        self.replica(name).change(stored, set(), skipped=1)

    async def on_repeat(self, name: str) -> None:
        self.replica(name).repeat()

    async def on_clear(self, name: str) -> None:
        self.replica(name).clear()

    async def on_die(self, name: str) -> None:
        self.replicas.pop(name, None)

    async def on_tell(self, name: str) -> None:
        self.begin(f"replica {name}", self.step_replica(name))

    async def on_follow(self, which: int) -> None:
        self.begin(f"mirror {which}", self.step_mirror(which))

    async def on_scrub(self, which: int) -> None:
        self.begin(f"scrubber {which}", self.step_scrubber(which))

    async def on_purge(self, which: int) -> None:
        """A whole pass, if it is not kept from it."""

        async def step() -> None:
            with suppress(StoreError):
                await until_idle(self.scrubbers[which].step)

        self.begin(f"scrubber {which}", step())

    async def on_rest(self) -> None:
        """All that has begun ends."""
        await self.end_steps()

    async def on_turn(self, num_commands: int) -> None:
        for _ in range(num_commands):
            await asyncio.sleep(0)
            self.check_invariants()

    def begin(self, actor: str, step: Coroutine[Any, Any, None]) -> None:
        """A step of this actor, beside those of others, but after its own last one."""
        if actor in self.steps and not self.steps[actor].done():
            step.close()
        else:
            self.steps[actor] = asyncio.create_task(step)

    async def on_time(self, seconds: float) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.server.now_s += seconds

    async def on_away(self, is_away: bool) -> None:
        self.server.is_away = is_away

    async def on_save(self) -> None:
        self.saved = self.server.saved()

    async def on_restart(self, data: str) -> None:
        kept = {"empty": ({}, {}, []), "old": self.saved, "now": self.server.saved()}
        self.server.restart(kept[data])

    async def on_lose(self, what: str) -> None:
        if what == "registry":
            self.server.hashes.pop(self.store().namespace.registry_key, None)
        elif what == "stream":
            self.server.stream.clear()
        else:
            self.server.strings.clear()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=60))
def test_store_and_mirrors_come_to_say_what_the_slow_twin_says(events: list[Any]) -> None:
    asyncio.run(_drive(events))


async def _drive(events: list[Any]) -> None:
    world = FakeWorld()
    lost_entries = False
    for event in events:
        await world.on_event(*event)
        lost_entries |= event == ("lose", "entries")
    world.server.is_away = False
    await world.end_steps()
    await world.settle()
    for mirror in world.mirrors:
        assert mirror.state == "current"
        if not lost_entries:
            assert world.told_by(mirror) == world.expected()
    await world.scrub_all()
    told, left = await world.told_by_store()
    assert left == set()
    for name, blocks in world.expected().items():
        assert told[name] <= blocks if lost_entries else told[name] == blocks

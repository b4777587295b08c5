"""An index with everything around it, driven by steps, and its slow twin.

The twin of a holder is a set of the blocks it has; what the mirrors and the store
come to say of it must be just that.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from cache.mirror import Mirror
from cache.settings import CacheSection
from cache.store.index_store import IndexStore
from cache.store.keys import Namespace
from cache.store.link import Link, StoreError
from cache.store.publisher import Publisher
from cache.store.scrub import Scrubber
from cache.types import BlockGroup, Change, Hashes, Holder

GROUPS = [BlockGroup("full", 16)]
NAMESPACE = Namespace.of("app", "model", GROUPS)
SHARDS = (0, 0x7D, 0xFF)
ALPHABET = tuple(shard << 56 | low for shard in SHARDS for low in (1, 2, 0x7B7D00))


def hashes_of(blocks: "set[int] | list[int]") -> Hashes:
    return np.array(sorted(blocks), np.uint64)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeReplica:
    """A holder with its pump: what it has, and the publisher that tells of it."""

    publisher: Publisher
    blocks: set[int] = field(default_factory=set)
    seq: int = 0

    def change(self, stored: set[int], removed: set[int], skipped: int = 0) -> None:
        """Store and remove; with `skipped`, so many changes before it get lost."""
        self.blocks = (self.blocks | stored) - removed
        self.seq += skipped
        change = Change(self.seq, hashes_of(stored - removed), hashes_of(removed))
        self.seq += 1
        self.publisher.publish(change)

    def repeat(self) -> None:
        """A change comes a second time, with what it had not."""
        if self.seq:
            self.publisher.publish(
                Change(self.seq - 1, hashes_of(set(ALPHABET)), hashes_of([]))
            )

    def clear(self) -> None:
        self.blocks.clear()
        self.seq = 0
        self.publisher.begin_anew()


class World:
    """Replicas, mirrors and scrubbers on one server, a step at a time."""

    def __init__(
        self,
        link: Link,
        section: CacheSection,
        num_mirrors: int = 2,
        timer: Callable[[], float] | None = None,
    ) -> None:
        self.clock = Clock()
        self._timer = timer or self.clock
        self.link, self.section = link, section
        self.replicas: dict[str, FakeReplica] = {}
        self.mirrors = [Mirror(self.store(), GROUPS, self._timer) for _ in range(num_mirrors)]
        self.scrubbers = [Scrubber(link, self.store()) for _ in range(2)]

    def store(self) -> IndexStore:
        return IndexStore(self.link, NAMESPACE, self.section)

    def replica(self, name: str) -> FakeReplica:
        """The replica of this name, begun if there is none."""
        if name not in self.replicas:
            found: list[FakeReplica] = []
            publisher = Publisher(
                self.store(), Holder(name), lambda: hashes_of(found[0].blocks), self._timer
            )
            found.append(FakeReplica(publisher))
            self.replicas[name] = found[0]
        return self.replicas[name]

    async def step_replica(self, name: str) -> None:
        with suppress(StoreError):
            await self.replica(name).publisher.step()

    async def step_mirror(self, which: int) -> None:
        with suppress(StoreError):
            await self.mirrors[which].step(wait_s=0.001)

    async def step_scrubber(self, which: int) -> None:
        with suppress(StoreError):
            await self.scrubbers[which].step()

    def check_invariants(self) -> None:
        for replica in self.replicas.values():
            replica.publisher.check_invariants()
        for mirror in self.mirrors:
            mirror.check_invariants()

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds

    async def settle(self) -> None:
        """The server is there, and everyone does what is due until nothing is.

        It takes more than a lease, in which those that live renew theirs.
        """
        for _ in range(4):
            self.pass_time(self.section.lease_s / 2.5)
            for name in self.replicas:
                await until_idle(self.replicas[name].publisher.step)
        for mirror in self.mirrors:
            for _ in range(6):
                self.pass_time(2)
                await mirror.step(wait_s=0.001)
                mirror.check_invariants()

    async def scrub_all(self) -> None:
        for _ in range(2):
            for scrubber in self.scrubbers:
                await until_idle(scrubber.step)

    def expected(self) -> dict[str, set[int]]:
        """The slow twin."""
        return {name: set(replica.blocks) for name, replica in self.replicas.items()}

    def told_by(self, mirror: Mirror) -> dict[str, set[int]]:
        """What lookups of single blocks give."""
        told: dict[str, set[int]] = {
            h.replica_id: set() for h in mirror.live_holders().values()
        }
        blocks = [] if mirror.view is None else mirror.view.table.blocks()[0].tolist()
        for block in {*ALPHABET, *blocks}:
            tokens = mirror.lookup([hashes_of([block])])
            for bit, holder in mirror.live_holders().items():
                if tokens[bit]:
                    told[holder.replica_id].add(block)
        return told

    async def told_by_store(self) -> tuple[dict[str, set[int]], set[int]]:
        """What its entries say of live epochs, and which other bits are left in them."""
        store = self.store()
        registry = await store.registry()
        registry.check_invariants()
        told: dict[str, set[int]] = {e.holder.replica_id: set() for e in registry.epochs}
        bit_to_name = {int(e.bit): e.holder.replica_id for e in registry.epochs}
        left: set[int] = set()
        async for hashes, masks in store.snapshot():
            for block, words in zip(hashes.tolist(), masks.tolist(), strict=True):
                for bit in _bits_of(words):
                    if bit in bit_to_name:
                        told[bit_to_name[bit]].add(block)
                    else:
                        left.add(bit)
        return told, left


async def until_idle(step: Callable[[], Awaitable[bool]]) -> None:
    """Step while there is more to do; an end must come."""
    for _ in range(10_000):
        if not await step():
            return
    raise AssertionError(f"{step} has no end")


def some_of(choice: random.Random) -> set[int]:
    return set(choice.sample(ALPHABET, choice.randrange(4)))


def _bits_of(words: list[int]) -> list[int]:
    return [64 * i + b for i, word in enumerate(words) for b in range(64) if word >> b & 1]

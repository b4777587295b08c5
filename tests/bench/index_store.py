"""What the index costs in the server: bytes a block, lookups and writes a second.

Beside it, in the same run and on the same server, the layout of llm-d's index, built
here from its description: a HASH for each block, whose fields are JSON objects that name
a holder and its tier; a ZSET for each of the engine's keys, that leads to the block; and
lookups by one HKEYS a block, pipelined.

    python -m tests.bench.index_store --blocks 100000 1000000

Chains have 500 blocks, each held by 2 of 64 holders. Rounds alternate the layouts; the
figures are medians over the rounds.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from redis.asyncio import Redis

from cache.mirror_view import MirrorView
from cache.settings import CacheSection
from cache.store.index_store import IndexStore
from cache.store.keys import Namespace
from cache.store.server_link import ServerLink
from cache.types import BlockGroup, Change, Epoch, Hashes, Holder
from tests.builders.metadata_server import Program, debian_redis, running, valkey

CHAIN_BLOCKS = 500
NUM_HOLDERS = 64
HOLDERS_PER_CHAIN = 2
WRITE_BLOCKS = 32  # blocks of one change
_BATCH = 4096
_RESULTS = Path(__file__).parent / "results" / "index_store.json"


class Layout(Protocol):
    """One way to keep the index in a server."""

    async def open(self, num_holders: int) -> None:
        """Make it ready for holders 0 to `num_holders` - 1."""

    async def store(self, holder: int, hashes: Hashes) -> None:
        """The holder has these blocks."""

    async def lookup(self, chain: Hashes) -> dict[int, int]:
        """Leading blocks of a chain that each holder has."""

    async def close(self) -> None:
        """Give its connections back."""


class Bitmaps:
    """Ours."""

    def __init__(self, url: str) -> None:
        section = CacheSection(lease_s=100_000, timeout_s=30)
        self._link = ServerLink(section, url)
        namespace = Namespace.of("bench", "model", [BlockGroup("full", 16)])
        self.index = IndexStore(self._link, namespace, section)
        self._epochs: list[Epoch] = []

    async def open(self, num_holders: int) -> None:
        for holder in range(num_holders):
            epoch = await self.index.begin_epoch(Holder(_holder_name(holder)))
            self._epochs.append(epoch)

    async def store(self, holder: int, hashes: Hashes) -> None:
        await self.index.mark(self._epochs[holder], Change(0, hashes, hashes[:0]))

    async def lookup(self, chain: Hashes) -> dict[int, int]:
        masks = (await self.index.masks_of(chain))[:, 0]
        # Bits that a block has with all before it.
        running_masks = np.bitwise_and.accumulate(masks)
        found: dict[int, int] = {}
        for bit in _bits(int(running_masks[0])) if len(masks) else ():
            found[bit] = int(np.count_nonzero(running_masks >> np.uint64(bit) & np.uint64(1)))
        return found

    async def close(self) -> None:
        await self._link.close()


class JsonHashes:
    """llm-d's layout, as its documents describe it."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, protocol=2)

    async def open(self, num_holders: int) -> None:
        names = [_holder_name(holder) for holder in range(num_holders)]
        self._fields = [
            json.dumps({"PodIdentifier": name, "DeviceTier": "gpu"}).encode() for name in names
        ]
        self._field_to_holder = {name: holder for holder, name in enumerate(names)}

    async def store(self, holder: int, hashes: Hashes) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for value in hashes.tolist():
            key = b"model@%d" % value
            pipeline.hset(key, self._fields[holder], b"")
            pipeline.zadd(b"engine:model@%d" % (value ^ 1), {key: 0})
        await pipeline.execute()

    async def lookup(self, chain: Hashes) -> dict[int, int]:
        pipeline = self._client.pipeline(transaction=False)
        for value in chain.tolist():
            pipeline.hkeys(b"model@%d" % value)
        found: dict[int, int] = {}
        live: set[int] | None = None
        for length, fields in enumerate(await pipeline.execute(), start=1):
            named = [json.loads(field)["PodIdentifier"] for field in fields]
            holders = {self._field_to_holder[name] for name in named}
            live = holders if live is None else live & holders
            if not live:
                break
            for holder in live:
                found[holder] = length
        return found

    async def close(self) -> None:
        await self._client.aclose()


LAYOUTS: dict[str, Callable[[str], Layout]] = {"bitmaps": Bitmaps, "json_hashes": JsonHashes}


def chains_of(num_blocks: int, seed: int) -> Hashes:
    """Shape: [num_chains, CHAIN_BLOCKS]; a chain's blocks are of one shard."""
    rng = np.random.default_rng(seed)
    shape = (num_blocks // CHAIN_BLOCKS, CHAIN_BLOCKS)
    low = rng.integers(1, 2**56, shape, np.uint64)
    chains: Hashes = low | rng.integers(0, 256, (shape[0], 1), np.uint64) << np.uint64(56)
    return chains


def holders_of(num_chains: int) -> list[set[int]]:
    """Who has each chain."""
    rng = np.random.default_rng(1)
    return [
        set(rng.choice(NUM_HOLDERS, HOLDERS_PER_CHAIN, replace=False).tolist())
        for _ in range(num_chains)
    ]


async def fill(layout: Layout, chains: Hashes, holders: list[set[int]]) -> None:
    """Store all chains."""
    for holder in range(NUM_HOLDERS):
        held = chains[[holder in some for some in holders]].reshape(-1)
        for start in range(0, len(held), _BATCH):
            await layout.store(holder, held[start : start + _BATCH])


async def rate(work: Callable[[int], Awaitable[int]], num_times: int) -> float:
    """Units of work a second."""
    started = time.perf_counter()
    num_units = sum([await work(k) for k in range(num_times)])
    return num_units / (time.perf_counter() - started)


async def lookups_per_s(layout: Layout, chains: Hashes, num_blocks: int) -> float:
    """Of chains whose first `num_blocks` are in the index."""
    absent = chains_of(CHAIN_BLOCKS, seed=99)[0]

    async def look(k: int) -> int:
        chain = chains[k % len(chains)].copy()
        chain[num_blocks:] = (absent[num_blocks:] & _LOW) | (chain[0] & ~_LOW)
        found = await layout.lookup(chain)
        assert sorted(found.values()) == [num_blocks] * HOLDERS_PER_CHAIN
        return 1

    return await rate(look, 60)


async def writes_per_s(layout: Layout, seed: int) -> float:
    """Blocks a second, of new chains, a change at a time."""
    fresh = chains_of(20 * CHAIN_BLOCKS, seed)[:, : WRITE_BLOCKS * 15]
    changes = fresh.reshape(-1, WRITE_BLOCKS)

    async def write(k: int) -> int:
        await layout.store(k % NUM_HOLDERS, changes[k])
        return WRITE_BLOCKS

    return await rate(write, len(changes))


async def snapshot_of(layout: Bitmaps, num_blocks: int) -> dict[str, float]:
    """How fast a new mirror reads all blocks, and what they take in it."""
    view = MirrorView(4 * num_blocks, await layout.index.registry())

    async def load(_: int) -> int:
        async for hashes, masks in layout.index.snapshot():
            view.merge(hashes, masks)
        return len(view.table)

    speed = await rate(load, 1)
    mirror_bytes = view.table.num_bytes / len(view.table)
    return {
        "snapshot_blocks_per_s": round(speed),
        "mirror_bytes_per_block": round(mirror_bytes, 1),
    }


async def measure(program: Program, num_blocks: int, num_rounds: int) -> list[dict[str, Any]]:
    """A row for each layout."""
    with (
        tempfile.TemporaryDirectory(prefix="ix-") as folder,
        running(program, Path(folder)) as server,
    ):
        chains = chains_of(num_blocks, seed=0)
        layouts = {name: make(server.url) for name, make in LAYOUTS.items()}
        rows: dict[str, dict[str, Any]] = {}
        for name, layout in layouts.items():
            taken = await bytes_taken(server.url, layout, chains)
            rows[name] = {"layout": name, "blocks": num_blocks}
            rows[name]["bytes_per_block"] = round(taken / num_blocks, 1)
            if isinstance(layout, Bitmaps):
                # Before the keys of others are there to be scanned too.
                rows[name] |= await snapshot_of(layout, num_blocks)
        for name, samples in (await rounds(layouts, chains, num_rounds)).items():
            rows[name] |= {k: round(statistics.median(v)) for k, v in samples.items()}
        for layout in layouts.values():
            await layout.close()
        return list(rows.values())


async def bytes_taken(url: str, layout: Layout, chains: Hashes) -> int:
    """Memory of the server that all chains take."""
    async with Redis.from_url(url) as client:
        await layout.open(NUM_HOLDERS)
        before: int = (await client.info("memory"))["used_memory"]
        await fill(layout, chains, holders_of(len(chains)))
        after: int = (await client.info("memory"))["used_memory"]
    return after - before


async def rounds(
    layouts: dict[str, Layout], chains: Hashes, num_rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Samples of each layout; which one goes first alternates."""
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in layouts}
    for k in range(num_rounds):
        for name in list(layouts)[:: 1 if k % 2 else -1]:
            layout, of = layouts[name], samples[name]
            for num_found in (500, 5):
                found = await lookups_per_s(layout, chains, num_found)
                of.setdefault(f"lookups_per_s_hit_{num_found}", []).append(found)
            of.setdefault("blocks_written_per_s", []).append(
                await writes_per_s(layout, 100 + k)
            )
    return samples


def _bits(mask: int) -> Iterator[int]:
    return (bit for bit in range(64) if mask >> bit & 1)


def _holder_name(holder: int) -> str:
    return f"10.0.{holder // 8}.{holder % 8}:8000"


_LOW = np.uint64(2**56 - 1)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    programs = {"valkey": valkey(), "redis": debian_redis()}
    rows = []
    for name, program in programs.items():
        if isinstance(program, str):
            print(f"{name} is left out: {program}")
            continue
        for num_blocks in arguments.blocks:
            for row in asyncio.run(measure(program, num_blocks, arguments.rounds)):
                rows.append({"server": name, **row})
                print(rows[-1], flush=True)
    _RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

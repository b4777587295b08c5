"""What the table takes: events applied in a second, and bytes a block."""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.block_hash import block_hashes, extend
from cache.prefix_table import PrefixTable
from cache.types import BlockHash, Hashes, Tokens
from tests.bench.dynamo_index import DynamoIndex, block_texts
from tests.bench.index_lookup import BLOCK_SIZE, SEED, VOCABULARY

NUM_EVENT_REPLICAS = 8
NUM_EVENT_ROUNDS = 5
SMALLEST_MEASURED_BLOCKS = 4_000


@dataclass(frozen=True)
class EventsRow:
    """Events of one kind and size, applied one after the other by one thread to an
    index that is empty at first; medians over the rounds.

    Ours come as arrays, Dynamo's as JSON that its library parses: that is how its
    Python takes them. `ours_with_hashing` begins with the tokens and the parent's
    hash, as they come from an engine.
    """

    kind: str
    blocks_per_event: int
    num_events: int
    dynamo_per_s: int
    ours_per_s: int
    ours_with_hashing_per_s: int | None


@dataclass(frozen=True)
class MemoryRow:
    """Bytes a block while a table grew to its size, in steps of 250 blocks."""

    num_blocks: int
    num_bits: int
    bytes_per_block: float
    """At the end."""

    most_bytes_per_block: float
    """Between any two steps, above a few thousand blocks."""

    peak_bytes_per_block: float
    """While the table moved to more slots, old and new together."""


def measure_events(sizes: Sequence[int], num_blocks: int) -> Iterator[EventsRow]:
    """Rows for stored and for removed blocks, of each number of blocks an event."""
    rng = np.random.default_rng(5)
    for size in sizes:
        chains = [
            rng.integers(0, VOCABULARY, BLOCK_SIZE * size, dtype=np.uint32)
            for _ in range(num_blocks // size)
        ]
        hashes = [block_hashes(tokens, BLOCK_SIZE, SEED) for tokens in chains]
        yield from _events(size, chains, hashes)


def measure_memory(sizes: Sequence[int], bits: Sequence[int]) -> Iterator[MemoryRow]:
    """A row for each number of blocks and of bits."""
    for num_bits in bits:
        for num_blocks in sizes:
            yield _memory(num_blocks, num_bits)


def _events(size: int, chains: list[Tokens], hashes: list[Hashes]) -> Iterator[EventsRow]:
    rounds = [_round(chains, hashes) for _ in range(NUM_EVENT_ROUNDS)]
    for kind in ("stored", "removed"):
        dynamo, ours, with_hashing = (
            statistics.median(rates[kind][i] for rates in rounds) for i in range(3)
        )
        yield EventsRow(
            kind=kind,
            blocks_per_event=size,
            num_events=len(chains),
            dynamo_per_s=round(dynamo),
            ours_per_s=round(ours),
            ours_with_hashing_per_s=round(with_hashing) if kind == "stored" else None,
        )


def _round(chains: list[Tokens], hashes: list[Hashes]) -> dict[str, tuple[float, float, float]]:
    """Rates of Dynamo, ours, and ours with hashing, by kind of event."""
    dynamo = DynamoIndex(BLOCK_SIZE)
    stored = [
        dynamo.stored(None, block_texts(found.tolist(), dynamo.hash_tokens(tokens.tolist())))
        for tokens, found in zip(chains, hashes, strict=True)
    ]
    removed = [dynamo.removed(found.tolist()) for found in hashes]
    table, hashing = PrefixTable(10**8), PrefixTable(10**8)

    def store_tokens(bit: int, tokens: Tokens) -> None:
        hashing.store(bit, extend(BlockHash(SEED), tokens, BLOCK_SIZE))

    rates = {
        "stored": (
            _rate(dynamo.apply, stored, dynamo.wait),
            _rate(table.store, hashes),
            _rate(store_tokens, chains),
        ),
        "removed": (
            _rate(dynamo.apply, removed, dynamo.wait),
            _rate(table.remove, hashes),
            0.0,
        ),
    }
    assert len(table) == 0
    return rates


def _rate(
    apply: Callable[[int, Any], None],
    events: Sequence[Any],
    wait: Callable[[], None] = lambda: None,
) -> float:
    started = time.perf_counter()
    for number, event in enumerate(events):
        apply(number % NUM_EVENT_REPLICAS, event)
    wait()
    return len(events) / (time.perf_counter() - started)


def _memory(num_blocks: int, num_bits: int) -> MemoryRow:
    hashes = np.random.default_rng(num_blocks).integers(1, 2**64, num_blocks, dtype=np.uint64)
    table = PrefixTable(10**8)
    most = peak = 0.0
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for start in range(0, num_blocks, 250):
        tracemalloc.reset_peak()
        table.store(num_bits - 1 - start // 250 % num_bits, hashes[start : start + 250])
        if len(table) >= SMALLEST_MEASURED_BLOCKS:
            most = max(most, table.num_bytes / len(table))
            peak = max(peak, (tracemalloc.get_traced_memory()[1] - before) / len(table))
    tracemalloc.stop()
    return MemoryRow(
        num_blocks=num_blocks,
        num_bits=num_bits,
        bytes_per_block=round(table.num_bytes / len(table), 1),
        most_bytes_per_block=round(most, 1),
        peak_bytes_per_block=round(peak, 1),
    )

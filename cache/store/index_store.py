"""The store: one namespace of the index in Valkey or Redis.

An *entry* is the bitmap of one block: 8 bytes, or 16, 32, 64 where higher bits are set;
bit b is bit b % 8 of byte b // 8. Shape of masks: [num_blocks, num_words], 64 bits a word.

Worked example: epoch 1763700000000007 has bit 3. `mark` of two hashes writes
08 00 00 00 00 00 00 00 to two new keys; `mark` of the removal of one deletes its key.
"""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np

from cache.settings import CacheSection
from cache.store.keys import (
    EntryKeys,
    Namespace,
    hash_tag,
    new_incarnation,
    shards_of,
    unpack,
)
from cache.store.link import (
    Command,
    EpochEndedError,
    Link,
    Node,
    StoreError,
    function_call,
)
from cache.store.masks import Masks, as_masks
from cache.store.registry import Registry, parse_registry
from cache.store.stream import Entry, decode_entry, encode_change, holder_text
from cache.types import Change, Epoch, EpochBit, Hashes, Holder

MAX_EPOCHS = 4096
"""Most bits of a namespace: live ones, and those not yet scrubbed."""

# One call of a function, or one read, so that the server is not kept from others.
_MAX_KEYS = 512
_READ_CHUNKS = (16, 64, 256)
_SCAN_COUNT = 1000
_MAX_ENTRIES = 256


@dataclass(frozen=True)
class StoreState:
    """What a follower compares: it reads anew when the first two change."""

    incarnation: bytes
    run_ids: tuple[str, ...]
    """Of all primaries: a server that was restarted may have lost what it had."""

    last_index: int
    """Index of the stream's latest entry; 0 where there is none."""


@dataclass(frozen=True)
class _Part:
    """The keys of one shard that one call writes."""

    shard: int
    stored: Hashes
    removed: Hashes


class IndexStore:
    """One namespace of the index. All calls raise StoreError."""

    def __init__(self, link: Link, namespace: Namespace, section: CacheSection) -> None:
        self._link = link
        self._namespace = namespace
        self._section = section
        self._lease_ms = int(section.lease_s * 1000)
        self._ttl_ms = int((section.entry_ttl_s or 0) * 1000)
        self._keys = EntryKeys(namespace, b"")
        # An epoch writes into the incarnation that it began in, whatever has come since.
        self._holder_to_keys: dict[Holder, tuple[int, EntryKeys]] = {}

    @property
    def section(self) -> CacheSection:
        """Its configuration."""
        return self._section

    @property
    def namespace(self) -> Namespace:
        """Where it lies in the server."""
        return self._namespace

    # Epochs

    async def begin_epoch(self, holder: Holder) -> Epoch:
        """A new epoch, with a bit that no entry has; an earlier one of the holder ends."""
        fresh = new_incarnation(os.urandom(3))
        incarnation, bit, number = await self._registry_call(
            "begin", holder_text(holder), self._lease_ms, fresh, MAX_EPOCHS, self._max_length
        )
        self._keys = EntryKeys(self._namespace, incarnation)
        epoch = Epoch(holder, EpochBit(int(bit)), int(number))
        self._holder_to_keys[holder] = (epoch.number, self._keys)
        return epoch

    async def end_epoch(self, epoch: Epoch) -> None:
        """Make its entries void; nothing, where it has ended already."""
        await self._registry_call("finish", epoch.bit, epoch.number, self._max_length)

    async def renew(self, epoch: Epoch) -> None:
        """Keep the epoch for `lease_s` from here on, and end those that nobody renews.

        Raises EpochEndedError where it has ended.
        """
        args = (epoch.bit, epoch.number, self._lease_ms, self._max_length)
        await self._registry_call("renew", *args)

    async def sweep(self) -> StoreState:
        """End the epochs that nobody renews; what is to be known of the store after it."""
        incarnation, last_index = await self._registry_call("sweep", self._max_length)
        return StoreState(incarnation, await self.run_ids(), int(last_index))

    async def run_ids(self) -> tuple[str, ...]:
        """One for each primary; another one after a restart of it."""
        return tuple(node.run_id for node in await self._link.nodes())

    async def registry(self) -> Registry:
        """The epochs that live; whose entries are read and written follows from it."""
        key = self._namespace.registry_key
        (fields,) = await self._link.call_each([Command(key, ("HGETALL", key))])
        try:
            registry = parse_registry(fields)
        except (ValueError, KeyError) as error:
            raise StoreError(f"the registry cannot be read: {error}") from error
        self._keys = EntryKeys(self._namespace, registry.incarnation)
        return registry

    # Writing

    async def mark(self, epoch: Epoch, change: Change) -> None:
        """Write the epoch's bit into the entries of a change; `seq` plays no part.

        May be called again with the same. The epoch has begun at this object. Raises
        EpochEndedError once the bit is about to be given to another.
        """
        number, keys = self._holder_to_keys.get(epoch.holder, (0, self._keys))
        if number != epoch.number:
            raise EpochEndedError("it was not begun here, or another has begun since")
        ttl_ms = self._ttl_ms
        calls = []
        for part in _by_shard(change):
            packed = keys.pack(np.concatenate([part.stored, part.removed]))
            args = (epoch.bit, epoch.number, len(part.stored), ttl_ms)
            calls.append(function_call("mark", [keys.fence_key(part.shard), *packed], *args))
        await self._link.call_each(calls)

    async def append(self, epoch: Epoch, changes: Sequence[Change]) -> None:
        """Tell the mirrors of changes, whose `seq` follow each other, in one step.

        Those that are in the stream already are skipped. Raises EpochEndedError.
        """
        payloads = [encode_change(epoch, change) for change in changes]
        first = changes[0].seq
        args = (epoch.bit, epoch.number, self._max_length, first, *payloads)
        await self._registry_call("append", *args)

    # Reading

    async def masks_of(self, hashes: Hashes) -> Masks:
        """Bitmaps of a chain's leading blocks, up to the first that nobody holds.

        All hashes are of one shard. `registry` or `begin_epoch` comes first. Shape:
        [num_found, num_words].
        """
        found: list[bytes] = []
        for start, end in _read_chunks(len(hashes)):
            chunk = self._keys.pack(hashes[start:end])
            (values,) = await self._link.call_each([Command(chunk[0], ("MGET", *chunk))])
            held = next((i for i, value in enumerate(values) if not value), len(values))
            found += values[:held]
            if held < len(values):
                break
        return as_masks(found)

    async def snapshot(self) -> AsyncIterator[tuple[Hashes, Masks]]:
        """All entries, in parts, as they are while it runs; some may come twice.

        `registry` comes first.
        """
        keys = self._keys
        for node in await self._link.nodes():
            async for found in self.scan(node, keys.pattern):
                entries = keys.select(found)
                values = await self.values_of(entries)
                held = [(k, v) for k, v in zip(entries, values, strict=True) if v]
                if held:
                    yield unpack([k for k, _ in held]), as_masks([v for _, v in held])

    async def entries_after(self, index: int, wait_s: float) -> list[Entry]:
        """Entries of the stream that follow the one with this index, at most 256.

        Waits for the first of them. Where entries are missing, the first that is there
        has an index that does not follow.
        """
        key = self._namespace.stream_key
        # Longer, and the connection would take the server for lost.
        block_ms = max(1, int(min(wait_s, self._section.timeout_s / 2) * 1000))
        limits = ("COUNT", _MAX_ENTRIES, "BLOCK", block_ms)
        command = Command(key, ("XREAD", *limits, "STREAMS", key, f"{index}-0"))
        (streams,) = await self._link.call_each([command])
        entries = streams[0][1] if streams else []
        try:
            return [decode_entry(_index_of(name), fields[b"v"]) for name, fields in entries]
        except (ValueError, KeyError) as error:
            raise StoreError(str(error)) from error

    # For the scrub

    async def scan(self, node: Node, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """Keys of a node, in parts."""
        cursor = b"0"
        while True:
            cursor, found = await self._link.scan(node, cursor, pattern, _SCAN_COUNT)
            yield found
            if cursor == b"0":
                return

    async def values_of(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of any of our keys, in their order."""
        order, calls = [], []
        for places in by_slot(keys, self._link.is_clustered):
            named = [keys[i] for i in places]
            calls.append(Command(named[0], ("MGET", *named)))
            order += places
        answers = [v for values in await self._link.call_each(calls) for v in values]
        in_place: list[bytes | None] = [None] * len(keys)
        for place, value in zip(order, answers, strict=True):
            in_place[place] = value
        return in_place

    @property
    def _max_length(self) -> int:
        return self._section.stream_length

    async def _registry_call(self, name: str, *args: Any) -> Any:
        keys = (self._namespace.registry_key, self._namespace.stream_key)
        (answer,) = await self._link.call_each([function_call(name, keys, *args)])
        return answer


def by_slot(keys: Sequence[bytes], is_clustered: bool) -> list[list[int]]:
    """Places of keys that one call may take together."""
    tag_to_places: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys):
        tag_to_places.setdefault(hash_tag(key) if is_clustered else b"", []).append(place)
    return [
        places[start : start + _MAX_KEYS]
        for places in tag_to_places.values()
        for start in range(0, len(places), _MAX_KEYS)
    ]


def _read_chunks(num_hashes: int) -> Iterator[tuple[int, int]]:
    start = 0
    for size in chain(_READ_CHUNKS, repeat(_READ_CHUNKS[-1])):
        if start >= num_hashes:
            return
        yield start, min(start + size, num_hashes)
        start += size


def _by_shard(change: Change) -> list[_Part]:
    """The change in parts that one call each can write, in the order of shards."""
    hashes = np.concatenate([change.stored, change.removed])
    is_stored = np.arange(len(hashes)) < len(change.stored)
    # By shard, and in a shard what is stored before what is removed.
    order = np.lexsort((~is_stored, shards_of(hashes)))
    hashes, is_stored = hashes[order], is_stored[order]
    shards = shards_of(hashes)
    bounds = [*np.flatnonzero(np.diff(shards, prepend=-1)), len(hashes)]
    parts = []
    for start, end in pairwise(bounds):
        for first in range(start, end, _MAX_KEYS):
            part = slice(first, min(first + _MAX_KEYS, end))
            stored = is_stored[part]
            parts.append(_Part(int(shards[first]), hashes[part][stored], hashes[part][~stored]))
    return parts


def _index_of(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])

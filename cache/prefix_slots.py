"""The compiled loops of `cache.prefix_table`, over its slots.

`slots` is the table: each row is a block's hash and then its bitmap, all in one or
two cache lines; the hash 0 marks a free slot. A block is in the first slot that was
free from its *home* on (linear probing, Knuth's algorithm 6.4 L), going round at the
end; a deletion moves blocks back so that this stays true (6.4 R), and leaves no
tombstones. At least one slot is free.

    home = (high 32 bits of hash * salt) * num_slots >> 32

Any number of slots will do (Lemire, "Fast Random Integer Generation in an Interval",
2019), and a larger table has the blocks in the same order: to grow is one pass from
slot to slot. The multiplication by the table's salt, odd and secret, keeps a client
that chooses its hashes from crowding them around one slot.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cache.compiled import BITMAPS, HASHES, compiled, inlined
from cache.types import Hashes

Bitmaps = NDArray[np.uint64]  # [num_blocks, num_words]
Slots = NDArray[np.uint64]  # [num_slots, 1 + num_words]
Counts = NDArray[np.int64]  # [3]
Slot = int | np.int64

NUM_BLOCKS, NUM_EVICTED, HAND = 0, 1, 2
"""What a table's `Counts` hold. The hand is the slot where eviction looks next."""

NUM_SAMPLES = 8
"""Blocks among which eviction chooses."""

WORD_BITS = 64

_SLOTS = types.uint64[:, ::1]
_COUNTS = types.int64[::1]
_ONE = np.uint64(1)
_HALF = np.uint64(32)


@intrinsic  # type: ignore[untyped-decorator]
def _lowest_bit(typing_context: Any, word: Any) -> Any:
    """Position of the lowest bit that is set, of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        is_undefined_for_0 = context.get_constant(types.boolean, True)
        return builder.cttz(arguments[0], is_undefined_for_0)

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _num_ones(typing_context: Any, word: Any) -> Any:
    """How many bits of the word are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@inlined
def _home(slots: Slots, salt: np.uint64, block: np.uint64) -> Slot:
    return np.int64((block * salt >> _HALF) * np.uint64(len(slots)) >> _HALF)


@inlined
def _after(slots: Slots, slot: Slot) -> Slot:
    return slot + 1 if slot + 1 < len(slots) else np.int64(0)


@inlined
def _find(slots: Slots, salt: np.uint64, block: np.uint64) -> Slot:
    """The slot that has the block, or else the free one where it would go."""
    slot = _home(slots, salt, block)
    while slots[slot, 0] != block and slots[slot, 0] != 0:
        slot = _after(slots, slot)
    return slot


@inlined
def _distance(slots: Slots, start: Slot, end: Slot) -> Slot:
    """Steps from the one slot on to the other."""
    return end - start if end >= start else end - start + len(slots)


@inlined
def _move(slots: Slots, source: Slot, target: Slot) -> None:
    for column in range(slots.shape[1]):
        slots[target, column] = slots[source, column]


@inlined
def _has_bits(rows: Slots, row: Slot, start: int) -> bool:
    """Whether the row has bits in its columns from `start` on."""
    bits = np.uint64(0)
    for column in range(start, rows.shape[1]):
        bits |= rows[row, column]
    return bool(bits != 0)


@inlined
def _free(slots: Slots, salt: np.uint64, freed: Slot) -> None:
    """Delete the block in the slot: those after it that may move closer home do."""
    hole = freed
    slot = _after(slots, hole)
    while slots[slot, 0] != 0:
        home = _home(slots, salt, slots[slot, 0])
        if _distance(slots, home, slot) >= _distance(slots, hole, slot):
            _move(slots, slot, hole)
            hole = slot
        slot = _after(slots, slot)
    _move(slots, slot, hole)  # the free one that ended the run


@inlined
def _count_bits(slots: Slots, slot: Slot) -> np.uint64:
    total = np.uint64(0)
    for column in range(1, slots.shape[1]):
        total += _num_ones(slots[slot, column])
    return total


@inlined
def _evict(slots: Slots, salt: np.uint64, counts: Counts) -> None:
    """Delete, of the next few blocks after the hand, the one that fewest hold."""
    slot: Slot = np.int64(counts[HAND] % len(slots))
    victim, fewest = slot, np.uint64(2**63)
    num_seen = 0
    while num_seen < min(NUM_SAMPLES, counts[NUM_BLOCKS]):
        if slots[slot, 0] != 0:
            num_seen += 1
            num_holders = _count_bits(slots, slot)
            if num_holders < fewest:
                victim, fewest = slot, num_holders
        slot = _after(slots, slot)
    counts[HAND] = slot
    _free(slots, salt, victim)
    counts[NUM_BLOCKS] -= 1
    counts[NUM_EVICTED] += 1


@compiled(
    types.int64(_SLOTS, types.uint64, _COUNTS, types.UniTuple(types.int64, 3), HASHES, BITMAPS)
)
def put(
    slots: Slots,
    salt: np.uint64,
    counts: Counts,
    bounds: tuple[int, int, int],
    hashes: Hashes,
    bitmaps: Bitmaps,
) -> int:
    """Set the bits of a bitmap for each hash, or of the only bitmap for all of them.

    `bounds` are the first hash to put, the blocks that the slots may hold, and those
    that the table may: at the latter, new ones take the places of others. Returns
    from which hash on the slots did not suffice; len(hashes) if they did. A bitmap
    without a bit adds no block.
    """
    first, room, max_blocks = bounds
    num_words = slots.shape[1] - 1
    step = 1 if len(bitmaps) > 1 else 0
    for i in range(first, len(hashes)):
        block = hashes[i]
        if block == 0 or not _has_bits(bitmaps, i * step, 0):
            continue
        slot = _find(slots, salt, block)
        if slots[slot, 0] == 0:
            if counts[NUM_BLOCKS] >= max_blocks:
                _evict(slots, salt, counts)
                slot = _find(slots, salt, block)
            elif counts[NUM_BLOCKS] >= room:
                return i
            slots[slot, 0] = block
            counts[NUM_BLOCKS] += 1
        for word in range(num_words):
            slots[slot, 1 + word] |= bitmaps[i * step, word]
    return len(hashes)


@compiled(types.void(_SLOTS, types.uint64, _COUNTS, types.int64, HASHES))
def clear(slots: Slots, salt: np.uint64, counts: Counts, bit: int, hashes: Hashes) -> None:
    """Clear the bit for each hash; a block without bits is deleted."""
    column = 1 + bit // WORD_BITS
    kept = ~(_ONE << np.uint64(bit % WORD_BITS))
    for block in hashes:
        slot = _find(slots, salt, block)
        if slots[slot, 0] != 0:
            slots[slot, column] &= kept
            if not _has_bits(slots, slot, 1):
                _free(slots, salt, slot)
                counts[NUM_BLOCKS] -= 1


@compiled(types.int64(_SLOTS, HASHES))
def mask(slots: Slots, live: Hashes) -> int:
    """Clear all other bits than these; returns how many blocks have any left. Those
    that have none stay until a `copy`."""
    num_left = 0
    for slot in range(len(slots)):
        for word in range(slots.shape[1] - 1):
            slots[slot, 1 + word] &= live[word]
        num_left += _has_bits(slots, slot, 1)
    return num_left


@compiled(types.void(_SLOTS, types.uint64, _SLOTS))
def copy(slots: Slots, salt: np.uint64, larger: Slots) -> None:
    """Put all blocks with bits into other slots, which are free and enough, and whose
    bitmaps may be of another width if no bit is lost by that."""
    num_words = min(slots.shape[1], larger.shape[1]) - 1
    for slot in range(len(slots)):
        if _has_bits(slots, slot, 1):
            found = _find(larger, salt, slots[slot, 0])
            larger[found, 0] = slots[slot, 0]
            for word in range(1, 1 + num_words):
                larger[found, word] = slots[slot, word]


@compiled(types.void(_SLOTS, types.uint64, HASHES, types.uint64[:, ::1]))
def gather(slots: Slots, salt: np.uint64, hashes: Hashes, bitmaps: Bitmaps) -> None:
    """Fill in the bitmap of each hash; all 0 for one that no block has."""
    for i in range(len(hashes)):
        slot = _find(slots, salt, hashes[i])
        for word in range(slots.shape[1] - 1):
            # A free slot has no bits.
            bitmaps[i, word] = slots[slot, 1 + word]


@compiled(types.void(_SLOTS, types.uint64, HASHES, HASHES, types.int32[::1]))
def run_lengths(
    slots: Slots, salt: np.uint64, hashes: Hashes, live: Hashes, lengths: NDArray[np.int32]
) -> None:
    """For each bit the number of leading hashes that all have it; 0 for one not live."""
    num_words = min(len(live), slots.shape[1] - 1)
    running = live[:num_words].copy()
    lengths[:] = 0
    for i in range(len(hashes)):
        slot = _find(slots, salt, hashes[i])
        left = np.uint64(0)
        for word in range(num_words):
            ended = running[word] & ~slots[slot, 1 + word]
            running[word] ^= ended
            left |= running[word]
            while ended != 0:
                lengths[WORD_BITS * word + np.int64(_lowest_bit(ended))] = i
                ended &= ended - _ONE
        if left == 0:
            return
    for word in range(num_words):
        while running[word] != 0:
            lengths[WORD_BITS * word + np.int64(_lowest_bit(running[word]))] = len(hashes)
            running[word] &= running[word] - _ONE

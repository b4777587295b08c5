"""The compiled loops of `cache.prefix_table`, over its slots.

`slots` is the table: each row is a block's hash and then its bitmap; the hash 0 marks
a free slot, which has no bits. A block has a *home* and lies there or in one of the
slots after it, the last being followed by the first; from its home to it no slot is
free (linear probing). Blocks lie in the order of their homes (Robin Hood hashing:
Celis, 1986), so that none lies far away; a deletion moves those after it back, and
leaves no tombstones. At least one slot is free.

    home = (high 32 bits of hash * salt) * num_slots >> 32

Any number of slots will do (Lemire, "Fast Random Integer Generation in an Interval",
2019), and a larger table has the blocks in the same order: to grow is one pass from
slot to slot. The multiplication by the table's salt, odd and secret, keeps a client
that chooses its hashes from crowding them around one slot.

A lookup is as fast as the processor can guess and fetch. So a search compares the
first few slots without a branch, and has them fetched while it is some blocks behind.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cache.array_types import BITMAPS, HASHES
from cache.types import Hashes
from infra.compiled import compiled, inlined

Bitmaps = NDArray[np.uint64]  # [num_blocks, num_words]
Slots = NDArray[np.uint64]  # [num_slots, 1 + num_words]
Counts = NDArray[np.int64]  # [3]
Slot = np.uint64

NUM_BLOCKS, NUM_EVICTED, HAND = 0, 1, 2
"""What a table's `Counts` hold. The hand is the slot where eviction looks next."""

NUM_SAMPLES = 8
"""Blocks among which eviction chooses."""

NUM_COMPARED = 4
"""Slots that a search compares at once: most blocks are in them."""

NUM_AHEAD = 16
"""Blocks between the one whose slots are asked for and the one that is searched."""

WORD_BITS = 64

_SLOTS = types.uint64[:, ::1]
_COUNTS = types.int64[::1]
_ZERO = np.uint64(0)
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


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, slots: Any, slot: Any) -> Any:
    """Have the processor fetch the slot's cache line, and do not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        bytes_at, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        offset = builder.mul(arguments[1], builder.extract_value(array.strides, 0))
        slot_at = builder.gep(builder.bitcast(array.data, bytes_at), [offset])
        kind = ir.FunctionType(ir.VoidType(), [bytes_at, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [bytes_at], kind)
        # To read it, to keep it near, and it is data.
        builder.call(fetch, [slot_at, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(slots, slot), generate


@inlined
def _home(slots: Slots, salt: np.uint64, block: np.uint64) -> Slot:
    return (block * salt >> _HALF) * np.uint64(len(slots)) >> _HALF


@inlined
def _ahead(slots: Slots, slot: Slot, steps: np.uint64) -> Slot:
    """The slot so many steps on, of at most once around."""
    num_slots = np.uint64(len(slots))
    return slot + steps - (num_slots if slot + steps >= num_slots else _ZERO)


@inlined
def _find(slots: Slots, salt: np.uint64, block: np.uint64) -> Slot:
    """The slot that has the block; a free one if none has."""
    home, same = _home(slots, salt, block), _ZERO
    for steps in range(NUM_COMPARED):
        slot = _ahead(slots, home, np.uint64(steps))
        same |= np.uint64(slots[slot, 0] == block) << np.uint64(steps)
    if same != 0:
        return _ahead(slots, home, _lowest_bit(same))
    slot = home
    while slots[slot, 0] != block and slots[slot, 0] != 0:
        slot = _ahead(slots, slot, _ONE)
    return slot


@inlined
def _fetch(slots: Slots, salt: np.uint64, hashes: Hashes, i: int) -> None:
    """Ask for the slots that a search for the hash compares, if there is one."""
    if i < len(hashes):
        home = _home(slots, salt, hashes[i])
        _prefetch(slots, home)
        _prefetch(slots, _ahead(slots, home, np.uint64(NUM_COMPARED - 1)))


@inlined
def _fetch_first(slots: Slots, salt: np.uint64, hashes: Hashes, first: int) -> None:
    for i in range(first, first + NUM_AHEAD):
        _fetch(slots, salt, hashes, i)


@inlined
def _distance(slots: Slots, salt: np.uint64, slot: Slot) -> np.uint64:
    """How far from its home the block in the slot is."""
    home = _home(slots, salt, slots[slot, 0])
    return slot - home + (np.uint64(len(slots)) if slot < home else _ZERO)


@inlined
def _move(slots: Slots, source: Slot, target: Slot) -> None:
    for column in range(slots.shape[1]):
        slots[target, column] = slots[source, column]


@inlined
def _has_bits(rows: Slots, row: int | np.uint64, start: int) -> bool:
    """Whether the row has bits in its columns from `start` on."""
    bits = _ZERO
    for column in range(start, rows.shape[1]):
        bits |= rows[row, column]
    return bool(bits != 0)


@inlined
def _insert(slots: Slots, salt: np.uint64, block: np.uint64) -> Slot:
    """Make a slot for a block that is in none: those with later homes move on."""
    slot, distance = _home(slots, salt, block), _ZERO
    while slots[slot, 0] != 0 and _distance(slots, salt, slot) >= distance:
        slot = _ahead(slots, slot, _ONE)
        distance += _ONE
    free = slot
    while slots[free, 0] != 0:
        free = _ahead(slots, free, _ONE)
    while free != slot:
        previous = _ahead(slots, free, np.uint64(len(slots) - 1))
        _move(slots, previous, free)
        free = previous
    for column in range(slots.shape[1]):
        slots[slot, column] = block if column == 0 else _ZERO
    return slot


@inlined
def _free(slots: Slots, salt: np.uint64, slot: Slot) -> None:
    """Delete the block in the slot: those after it that are not at home move back."""
    hole, following = slot, _ahead(slots, slot, _ONE)
    while slots[following, 0] != 0 and _distance(slots, salt, following) > 0:
        _move(slots, following, hole)
        hole, following = following, _ahead(slots, following, _ONE)
    for column in range(slots.shape[1]):
        slots[hole, column] = 0


@inlined
def _count_bits(slots: Slots, slot: Slot) -> np.uint64:
    total = _ZERO
    for column in range(1, slots.shape[1]):
        total += _num_ones(slots[slot, column])
    return total


@inlined
def _evict(slots: Slots, salt: np.uint64, counts: Counts) -> None:
    """Delete, of the next few blocks after the hand, the one that fewest hold."""
    slot = np.uint64(counts[HAND] % len(slots))
    victim, fewest = slot, np.uint64(2**63)
    num_seen = 0
    while num_seen < min(NUM_SAMPLES, counts[NUM_BLOCKS]):
        if slots[slot, 0] != 0:
            num_seen += 1
            num_holders = _count_bits(slots, slot)
            if num_holders < fewest:
                victim, fewest = slot, num_holders
        slot = _ahead(slots, slot, _ONE)
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
    step = 1 if len(bitmaps) > 1 else 0
    _fetch_first(slots, salt, hashes, first)
    for i in range(first, len(hashes)):
        _fetch(slots, salt, hashes, i + NUM_AHEAD)
        block = hashes[i]
        if block == 0 or not _has_bits(bitmaps, i * step, 0):
            continue
        slot = _find(slots, salt, block)
        if slots[slot, 0] == 0:
            if counts[NUM_BLOCKS] >= max_blocks:
                _evict(slots, salt, counts)
            elif counts[NUM_BLOCKS] >= room:
                return i
            slot = _insert(slots, salt, block)
            counts[NUM_BLOCKS] += 1
        for word in range(slots.shape[1] - 1):
            slots[slot, 1 + word] |= bitmaps[i * step, word]
    return len(hashes)


@compiled(types.void(_SLOTS, types.uint64, _COUNTS, types.int64, HASHES))
def clear(slots: Slots, salt: np.uint64, counts: Counts, bit: int, hashes: Hashes) -> None:
    """Clear the bit for each hash; a block without bits is deleted."""
    column = 1 + bit // WORD_BITS
    kept = ~(_ONE << np.uint64(bit % WORD_BITS))
    _fetch_first(slots, salt, hashes, 0)
    for i in range(len(hashes)):
        _fetch(slots, salt, hashes, i + NUM_AHEAD)
        slot = _find(slots, salt, hashes[i])
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


@inlined
def _copy_bits(slots: Slots, source: int, others: Slots, target: Slot) -> None:
    for column in range(1, min(slots.shape[1], others.shape[1])):
        others[target, column] = slots[source, column]


@compiled(types.void(_SLOTS, types.uint64, _SLOTS))
def copy(slots: Slots, salt: np.uint64, others: Slots) -> None:
    """Put all blocks with bits into other slots, which are all free and enough, and
    whose bitmaps may be of another width if no bit is lost by that."""
    first_free = 0
    while slots[first_free, 0] != 0:
        first_free += 1
    # From here on blocks come in the order of their homes there too, but for those
    # with the same home here: most go right behind the last one.
    last_home, following = _ZERO, _ZERO
    for slot in range(first_free, len(slots)):
        if _has_bits(slots, slot, 1):
            home = _home(others, salt, slots[slot, 0])
            target = max(home, following)
            if home >= last_home and target < np.uint64(len(others)):
                others[target, 0] = slots[slot, 0]
                last_home, following = home, target + _ONE
            else:
                target = _insert(others, salt, slots[slot, 0])
                while following < np.uint64(len(others)) and others[following, 0] != 0:
                    following += _ONE
            _copy_bits(slots, slot, others, target)
    for slot in range(first_free):
        if _has_bits(slots, slot, 1):
            target = _insert(others, salt, slots[slot, 0])
            _copy_bits(slots, slot, others, target)


@compiled(types.void(_SLOTS, types.uint64, HASHES, types.uint64[:, ::1]))
def gather(slots: Slots, salt: np.uint64, hashes: Hashes, bitmaps: Bitmaps) -> None:
    """Fill in the bitmap of each hash; all 0 for one that no block has."""
    _fetch_first(slots, salt, hashes, 0)
    for i in range(len(hashes)):
        _fetch(slots, salt, hashes, i + NUM_AHEAD)
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
    _fetch_first(slots, salt, hashes, 0)
    for i in range(len(hashes)):
        _fetch(slots, salt, hashes, i + NUM_AHEAD)
        slot = _find(slots, salt, hashes[i])
        left = _ZERO
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


@compiled(types.boolean(_SLOTS, types.uint64))
def is_in_order(slots: Slots, salt: np.uint64) -> bool:
    """Every block is reached from its home, and lies in the order of homes."""
    for number in range(len(slots)):
        slot = np.uint64(number)
        if slots[slot, 0] != 0:
            previous = _ahead(slots, slot, np.uint64(len(slots) - 1))
            distance = _distance(slots, salt, slot)
            if slots[previous, 0] == 0 and distance > 0:
                return False
            if slots[previous, 0] != 0 and distance > _distance(slots, salt, previous) + _ONE:
                return False
    return True

"""Which holders have which blocks, in memory: a table from block hash to bitmap.

A block takes 21 to 32 bytes for up to 64 bits: 16 for its slot, and the slots are
half to three quarters full; a table that only grows stays below 26. While it moves
to more slots, old and new exist at once: up to 47 bytes a block, and 58 where it
moves to fewer because blocks were removed. Each doubling of the bits adds a word of
8 bytes to a slot, then two, then four.

The move itself takes about 25 ns a block, in which nothing else in the process runs.

Worked example: 200,000 blocks of holders with bits below 64, stored one by one. At
178,005 blocks three quarters of the 237,341 slots were full, and the table moved to
284,811 slots of 16 bytes; so it has 4.6 MB, which is 22.8 bytes a block.
"""

import secrets

import numpy as np
from numpy.typing import NDArray

from cache.prefix_slots import (
    NUM_BLOCKS,
    NUM_EVICTED,
    WORD_BITS,
    Bitmaps,
    clear,
    copy,
    gather,
    is_in_order,
    mask,
    put,
    run_lengths,
)
from cache.types import Hashes

MIN_SLOTS = 8
MAX_BLOCKS = 2**31
"""Homes are of 32 bits."""


class PrefixTable:
    """Blocks and their bitmaps, at most `max_blocks`.

    At the bound a new block takes the place of one of a few others, of the one that
    fewest hold: the index forgets, which costs speed and nothing else.

    `salt` scatters the blocks over the slots; None draws one, which clients cannot
    know. Hashes are arrays of uint64 without gaps between the items; the hash 0 is
    ignored. Not for several threads at once.
    """

    def __init__(self, max_blocks: int, salt: int | None = None) -> None:
        assert 0 < max_blocks <= MAX_BLOCKS
        self._max_blocks = max_blocks
        self._salt = np.uint64((secrets.randbits(64) if salt is None else salt) | 1)
        self._slots = np.zeros((MIN_SLOTS, 2), np.uint64)  # [num_slots, 1 + num_words]
        self._counts = np.zeros(3, np.int64)

    def __len__(self) -> int:
        return int(self._counts[NUM_BLOCKS])

    @property
    def num_words(self) -> int:
        """Words of 64 bits in each bitmap: a power of two."""
        return self._slots.shape[1] - 1

    @property
    def num_bytes(self) -> int:
        """Memory of the slots."""
        return self._slots.nbytes

    @property
    def num_evicted(self) -> int:
        """Blocks that gave their places to others, since the table was made."""
        return int(self._counts[NUM_EVICTED])

    def store(self, bit: int, hashes: Hashes) -> None:
        """Set the bit for all hashes."""
        bitmap = np.zeros((1, max(self.num_words, _num_words_for(bit))), np.uint64)
        bitmap[0, bit // WORD_BITS] = 1 << bit % WORD_BITS
        self._put(hashes, bitmap)

    def merge(self, hashes: Hashes, bitmaps: Bitmaps) -> None:
        """Set all bits of each hash's bitmap. A bitmap without bits adds no block.

        Shape of bitmaps: [len(hashes), any number of words].
        """
        assert len(hashes) == len(bitmaps)
        num_words = max(self.num_words, _num_words_for(WORD_BITS * bitmaps.shape[1] - 1))
        if bitmaps.shape[1] < num_words:
            bitmaps = np.pad(bitmaps, ((0, 0), (0, num_words - bitmaps.shape[1])))
        self._put(hashes, bitmaps)

    def remove(self, bit: int, hashes: Hashes) -> None:
        """Clear the bit for all hashes; a block without bits is deleted."""
        if _num_words_for(bit) <= self.num_words:
            clear(self._slots, self._salt, self._counts, bit, hashes)
            self._shrink()

    def clear_bits(self, live_mask: Hashes) -> None:
        """Clear all bits that are not live; blocks without bits are deleted, and the
        memory is given back. It takes the time of one pass over all slots, and of
        another where a block was deleted.

        Shape of live_mask: [any number of words].
        """
        live = np.zeros(max(len(live_mask), self.num_words), np.uint64)
        live[: len(live_mask)] = live_mask
        highest = max(np.flatnonzero(live), default=0)
        num_words = min(self.num_words, _num_words_for(WORD_BITS * int(highest)))
        num_left = mask(self._slots, live)
        if num_left < len(self) or num_words < self.num_words:
            self._counts[NUM_BLOCKS] = num_left
            self._resize(num_left, num_words)

    def leading_blocks(self, hashes: Hashes, live_mask: Hashes) -> NDArray[np.int32]:
        """For each live bit the number of leading hashes all of which have it.

        Shape: [64 * len(live_mask)]; 0 for bits that are not live. The first hash
        that no live bit's run goes on with ends the search.
        """
        lengths = np.empty(WORD_BITS * len(live_mask), np.int32)
        run_lengths(self._slots, self._salt, hashes, live_mask, lengths)
        return lengths

    def bitmaps(self, hashes: Hashes) -> Bitmaps:
        """Each hash's bitmap, dead bits included. Shape: [len(hashes), num_words]."""
        bitmaps = np.empty((len(hashes), self.num_words), np.uint64)
        gather(self._slots, self._salt, hashes, bitmaps)
        return bitmaps

    def blocks(self) -> tuple[Hashes, Bitmaps]:
        """Copies of all blocks, in no order. Shapes: [len], [len, num_words]."""
        used = self._slots[self._slots[:, 0] != 0]
        return used[:, 0].copy(), used[:, 1:].copy()

    def check_invariants(self) -> None:
        """Every block is found, once, and has bits; slots and bytes are in bounds."""
        hashes, bitmaps = self.blocks()
        assert len(self) == len(hashes) == len(np.unique(hashes)) <= self._max_blocks
        assert len(self) <= _room(len(self._slots)) < len(self._slots)
        assert bitmaps.any(axis=1).all()
        assert is_in_order(self._slots, self._salt)
        assert np.array_equal(self.bitmaps(hashes), bitmaps)
        assert not self._slots[self._slots[:, 0] == 0].any()
        assert self.num_words & self.num_words - 1 == 0
        assert len(self._slots) <= _max_slots(len(self))

    def _put(self, hashes: Hashes, bitmaps: Bitmaps) -> None:
        """Where the slots do not suffice, make enough for all the rest to be new."""
        if bitmaps.shape[1] > self.num_words:
            self._resize(len(self), bitmaps.shape[1])
        first = 0
        while first < len(hashes):
            bounds = (first, _room(len(self._slots)), self._max_blocks)
            first = put(self._slots, self._salt, self._counts, bounds, hashes, bitmaps)
            if first < len(hashes):
                num_blocks = min(len(self) + len(hashes) - first, self._max_blocks)
                self._resize(num_blocks, self.num_words)
        self._shrink()

    def _shrink(self) -> None:
        """Give back slots that are too many for the blocks there are."""
        if len(self._slots) > _max_slots(len(self)):
            self._resize(len(self), self.num_words)

    def _resize(self, num_blocks: int, num_words: int) -> None:
        """As many slots as suit so many blocks, with bitmaps of this width."""
        slots = np.zeros((_num_slots_for(num_blocks), 1 + num_words), np.uint64)
        copy(self._slots, self._salt, slots)
        self._slots = slots


def _room(num_slots: int) -> int:
    """Blocks above which there are to be more slots."""
    return num_slots * 3 // 4


def _max_slots(num_blocks: int) -> int:
    """Slots above which there are to be fewer."""
    return max(MIN_SLOTS, 2 * num_blocks + 2)


def _num_slots_for(num_blocks: int) -> int:
    """Five eighths of them full: so there is room for a fifth more blocks, and a
    fifth fewer are still half."""
    return max(MIN_SLOTS, num_blocks * 8 // 5 + 2)


def _num_words_for(bit: int) -> int:
    """The least power of two whose words have the bit."""
    if bit < 0:
        raise ValueError(f"bit {bit} must not be negative")
    return 1 << (bit // WORD_BITS).bit_length()

"""The index as one mirror has it: which epochs live, and who has which block.

It begins with the registry, takes the entries of a snapshot in any order, and then
those of the stream from the registry's `last_index` on. It does no I/O.

Why a snapshot that is read while others write comes out right: bitmaps are written
before their change is in the stream. So a snapshot has all changes up to the registry's
`bit_to_seq`, and may have later ones; those are in the stream too, and to apply them
again changes nothing, since the last word on each block is the same.
"""

from collections.abc import Mapping

import numpy as np

from cache.prefix_table import PrefixTable
from cache.store.masks import Masks
from cache.store.registry import Registry
from cache.store.stream import Begun, Changed, Ended, Entry
from cache.types import Epoch, EpochBit, Hashes, Holder

_WORD_BITS = 64


class MissedEntriesError(Exception):
    """Entries of the stream are missing: what is here is right no more."""


class MirrorView:
    """The live epochs and the blocks of one namespace."""

    def __init__(self, max_blocks: int, registry: Registry) -> None:
        self.table = PrefixTable(max_blocks=max_blocks)
        self.index = registry.last_index
        """Index of the latest entry that has been applied."""
        self.num_applied = 0
        """Hashes stored and removed since it began."""
        self._bit_to_epoch = {epoch.bit: epoch for epoch in registry.epochs}
        seqs = registry.bit_to_seq or {}
        self._next_seq = {bit: seqs.get(bit, -1) + 1 for bit in self._bit_to_epoch}
        self._last_number = registry.last_number
        # Bits of ended epochs that blocks may still have.
        self._unclean: set[EpochBit] = set()
        self._note_living()

    @property
    def live_mask(self) -> Hashes:
        """The bits of live epochs. Shape: [num_words]."""
        return self._live_mask

    def epochs(self) -> Mapping[EpochBit, Epoch]:
        """The epochs that live, by their bits."""
        return self._bit_to_epoch

    def holders(self) -> Mapping[EpochBit, Holder]:
        """Whom the live bits stand for."""
        return self._bit_to_holder

    def merge(self, hashes: Hashes, masks: Masks) -> None:
        """Take entries of the snapshot, before the first of the stream.

        Shapes: [num_blocks], [num_blocks, num_words].
        """
        live = np.zeros(masks.shape[1], np.uint64)
        num_words = min(len(live), len(self._live_mask))
        live[:num_words] = self._live_mask[:num_words]
        self.table.merge(hashes, masks & live)

    def apply(self, entry: Entry) -> None:
        """Take the next entry of the stream; one that was there is ignored.

        Raises MissedEntriesError where it does not follow.
        """
        if entry.index <= self.index:
            return
        if entry.index != self.index + 1:
            raise MissedEntriesError(f"{entry.index - self.index - 1} entries of the stream")
        match entry:
            case Changed():
                self._change(entry)
            case Begun():
                self._begin(entry.epoch)
            case Ended():
                self._end(entry)
        self.index = entry.index

    def clean(self) -> None:
        """Forget the blocks of ended epochs; it takes about 5 ns a slot of the table."""
        if self._unclean:
            self.table.clear_bits(self._live_mask)
            self._unclean.clear()

    def _change(self, entry: Changed) -> None:
        epoch, change = self._bit_to_epoch.get(entry.bit), entry.change
        if epoch is None or epoch.number != entry.number:
            if entry.number > self._last_number:
                raise MissedEntriesError("the beginning of an epoch")
            return
        expected = self._next_seq[entry.bit]
        if change.seq > expected:
            raise MissedEntriesError(f"{change.seq - expected} changes of {epoch.holder}")
        if change.seq < expected:
            return
        self._next_seq[entry.bit] = expected + 1
        self.table.store(entry.bit, change.stored)
        self.table.remove(entry.bit, change.removed)
        self.num_applied += len(change.stored) + len(change.removed)

    def _begin(self, epoch: Epoch) -> None:
        if epoch.number <= self._last_number:
            return
        if epoch.bit in self._bit_to_epoch:
            raise MissedEntriesError("the end of an epoch")
        if epoch.bit in self._unclean:
            self.clean()
        self._bit_to_epoch[epoch.bit] = epoch
        self._next_seq[epoch.bit] = 0
        self._last_number = epoch.number
        self._note_living()

    def _end(self, entry: Ended) -> None:
        epoch = self._bit_to_epoch.get(entry.bit)
        if epoch is not None and epoch.number == entry.number:
            del self._bit_to_epoch[entry.bit], self._next_seq[entry.bit]
            self._unclean.add(entry.bit)
            self._note_living()

    def _note_living(self) -> None:
        self._live_mask = _mask_of(self._bit_to_epoch)
        self._bit_to_holder = {bit: e.holder for bit, e in self._bit_to_epoch.items()}

    def check_invariants(self) -> None:
        """Live bits are those of the epochs; blocks have live bits and unclean ones."""
        assert np.array_equal(self._live_mask, _mask_of(self._bit_to_epoch))
        assert self._bit_to_holder.keys() == self._bit_to_epoch.keys()
        assert self._next_seq.keys() == self._bit_to_epoch.keys()
        assert not self._unclean & self._bit_to_epoch.keys()
        assert all(epoch.bit == bit for bit, epoch in self._bit_to_epoch.items())
        assert all(e.number <= self._last_number for e in self._bit_to_epoch.values())
        known = _mask_of({*self._bit_to_epoch, *self._unclean})
        _, masks = self.table.blocks()
        width = max(len(known), masks.shape[1])
        allowed = np.pad(known, (0, width - len(known)))[: masks.shape[1]]
        assert not (masks & ~allowed).any()
        self.table.check_invariants()


def _mask_of(bits: Mapping[EpochBit, Epoch] | set[EpochBit]) -> Hashes:
    mask = np.zeros(max(bits, default=0) // _WORD_BITS + 1, np.uint64)
    for bit in bits:
        mask[bit // _WORD_BITS] |= np.uint64(1 << bit % _WORD_BITS)
    return mask

"""A holder's changes on their way to the store: in order, in batches, without waiting.

Nothing here keeps the engine: `publish` takes a change and returns. While the store is
away changes collect up to a bound. Beyond it they are dropped, and once the store is
back the holder begins a new epoch and tells it all that it has.

The publisher gives its own `seq` to what it tells, since it joins changes: a batch has
the net effect of several. A batch is sent again until the store has it, with the same
`seq`, so that mirrors see it once.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cache.store.index_store import IndexStore
from cache.store.link import EpochEndedError, StoreError
from cache.store.stream import MAX_ENTRY_HASHES
from cache.types import Change, Epoch, Hashes, Holder
from infra.tasks import end_all

log = logging.getLogger(__name__)

NO_HASHES: Hashes = np.empty(0, np.uint64)

_MAX_BATCH_HASHES = 4096
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 5.0
# Of a lease: two renewals may fail.
_RENEW_SHARE = 1 / 3


@dataclass
class PublisherCounts:
    """What a publisher has done."""

    changes: int = 0
    """Changes taken."""

    gaps: int = 0
    """Times that changes before one were missing."""

    overflows: int = 0
    """Times that more was to be told than the bound allows."""

    epochs: int = 0
    """Epochs begun."""

    failures: int = 0
    """Times that the store was away, or refused."""

    published_blocks: int = 0
    """Hashes stored and removed that the store has taken."""


class Publisher:
    """Tells the store what one holder's cache has. Belongs to one event loop.

    `current_hashes` gives all that the holder has, with every change that `publish` has
    taken: it is asked whenever an epoch begins. The changes' `seq` count from 0, and
    again from 0 after `begin_anew`, whatever epochs the publisher begins by itself.
    """

    def __init__(
        self,
        store: IndexStore,
        holder: Holder,
        current_hashes: Callable[[], Hashes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = PublisherCounts()
        self._store = store
        self._holder = holder
        self._current_hashes = current_hashes
        self._clock = clock
        self._pending: deque[Change] = deque()
        self._num_pending = 0
        self._max_pending = store.section.max_pending_blocks
        self._next_change_seq = 0
        self._batch: list[Change] = []
        self._epoch: Epoch | None = None
        self._next_seq = 0
        self._run_ids: tuple[str, ...] = ()
        self._renewed_at = 0.0
        self._is_doubtful = False
        self._is_wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that it publishes in; None where it is to begin one."""
        return self._epoch

    @property
    def num_pending_blocks(self) -> int:
        """Hashes that wait to be told."""
        return self._num_pending + sum(_size(change) for change in self._batch)

    def start(self) -> None:
        """Work in the background until `close`."""
        self._tasks = [asyncio.create_task(self.run())]

    async def close(self) -> None:
        """Stop, and end the epoch if the store can be reached."""
        await end_all(self._tasks)
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            try:
                await self._store.end_epoch(epoch)
            except StoreError as error:
                log.debug("the epoch ends with its lease: %s", error)

    def publish(self, change: Change) -> None:
        """Take a change. One whose `seq` was there is ignored; after a gap all is told
        anew."""
        if change.seq < self._next_change_seq:
            return
        self.counts.changes += 1
        is_gap = change.seq > self._next_change_seq
        self._next_change_seq = change.seq + 1
        if is_gap:
            self.counts.gaps += 1
            self._give_up()
        if self._epoch is None:
            # `current_hashes` has it, when the next epoch begins.
            return
        self._pending.append(change)
        self._num_pending += _size(change)
        if self._num_pending > self._max_pending:
            self.counts.overflows += 1
            self._give_up()
        self._is_wanted.set()

    def begin_anew(self) -> None:
        """The cache was cleared, or nobody knows what it has: void all that was told."""
        self._next_change_seq = 0
        self._give_up()

    async def run(self) -> None:
        """Step for ever; cancel it to end it."""
        retry_s = _FIRST_RETRY_S
        while True:
            self._is_wanted.clear()
            try:
                has_more = await self.step()
            except StoreError as error:
                self._on_failure(error, is_first=retry_s == _FIRST_RETRY_S)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
                continue
            except Exception:
                # The engine serves on, and the next epoch is told all anew.
                log.exception("changes of %s could not be told", self._holder)
                self._give_up()
                await asyncio.sleep(_LAST_RETRY_S)
                continue
            retry_s = _FIRST_RETRY_S
            if not has_more:
                await self._wait()

    async def step(self) -> bool:
        """Do what is due: begin an epoch, renew it, tell one batch. True while there is
        more. Raises StoreError; nothing is lost by it."""
        try:
            await self._keep_epoch()
            if not self._batch:
                self._batch = self._take_batch()
            if self._batch:
                await self._tell(self._batch)
        except EpochEndedError:
            log.info("the epoch of %s has ended; it begins another", self._holder)
            self._give_up()
        except StoreError:
            # It may come back with less than it had.
            self._is_doubtful = True
            raise
        return self._epoch is None or bool(self._pending)

    def _give_up(self) -> None:
        self._pending.clear()
        self._num_pending = 0
        self._batch = []
        self._epoch = None
        self._is_wanted.set()

    async def _keep_epoch(self) -> None:
        is_due = self._clock() - self._renewed_at > self._store.section.lease_s * _RENEW_SHARE
        if self._epoch is not None and (is_due or self._is_doubtful):
            epoch, now = self._epoch, self._clock()
            if await self._store.run_ids() != self._run_ids:
                log.info("the store was restarted; %s begins another epoch", self._holder)
                self._give_up()
            else:
                await self._store.renew(epoch)
                self._renewed_at = now
            self._is_doubtful = False
        if self._epoch is None:
            await self._begin()

    async def _begin(self) -> None:
        now = self._clock()
        run_ids = await self._store.run_ids()
        epoch = await self._store.begin_epoch(self._holder)
        # From here to the end nothing waits: a change is either in the hashes or comes
        # after them.
        self._give_up()
        self._epoch, self._run_ids, self._renewed_at = epoch, run_ids, now
        self._next_seq, self._is_doubtful = 0, False
        self.counts.epochs += 1
        hashes = np.ascontiguousarray(self._current_hashes(), dtype=np.uint64)
        for some in _chunks(hashes, _MAX_BATCH_HASHES):
            self._pending.append(Change(0, some, NO_HASHES))
        self._num_pending = len(hashes)
        self._max_pending = max(self._store.section.max_pending_blocks, 2 * len(hashes))

    def _take_batch(self) -> list[Change]:
        """The net effect of the next changes, in entries of the stream."""
        taken: list[Change] = []
        num_taken = 0
        while self._pending and (
            not taken or num_taken + _size(self._pending[0]) <= _MAX_BATCH_HASHES
        ):
            taken.append(self._pending.popleft())
            num_taken += _size(taken[-1])
        self._num_pending -= num_taken
        return as_entries(joined(taken), self._next_seq) if num_taken else []

    async def _tell(self, batch: list[Change]) -> None:
        epoch = self._epoch
        assert epoch is not None
        net = joined(batch)
        await self._store.mark(epoch, net)
        await self._store.append(epoch, batch)
        if self._epoch is epoch:
            self._batch = []
            self._next_seq = batch[-1].seq + 1
            self.counts.published_blocks += _size(net)

    async def _wait(self) -> None:
        due_s = self._renewed_at + self._store.section.lease_s * _RENEW_SHARE - self._clock()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(due_s, 0) + 0.001):
                await self._is_wanted.wait()

    def _on_failure(self, error: StoreError, is_first: bool) -> None:
        self.counts.failures += 1
        level = logging.WARNING if is_first else logging.DEBUG
        log.log(level, "the store does not take changes of %s: %s", self._holder, error)

    def check_invariants(self) -> None:
        """What waits is counted; without an epoch nothing waits; batches have room in
        the stream's entries, and their `seq` follow."""
        assert self._num_pending == sum(_size(change) for change in self._pending)
        assert self._epoch is not None or not (self._pending or self._batch)
        assert all(_size(change) <= MAX_ENTRY_HASHES for change in self._batch)
        seqs = [change.seq for change in self._batch]
        assert seqs == list(range(self._next_seq, self._next_seq + len(seqs)))


def joined(changes: list[Change]) -> Change:
    """The net effect of changes, one after the other: the last word on each hash."""
    if len(changes) == 1 and not len(changes[0].removed):
        return Change(0, np.unique(changes[0].stored), NO_HASHES)
    parts = [part for change in changes for part in (change.stored, change.removed)]
    hashes = np.concatenate(parts)
    is_stored = np.repeat([True, False] * len(changes), [len(part) for part in parts])
    # Of the reversed array the first, which is the last.
    _, places = np.unique(hashes[::-1], return_index=True)
    last = np.sort(len(hashes) - 1 - places)
    hashes, is_stored = hashes[last], is_stored[last]
    return Change(0, hashes[is_stored], hashes[~is_stored])


def as_entries(net: Change, first_seq: int) -> list[Change]:
    """The change in parts that have room in one entry of the stream each."""
    parts = [(some, NO_HASHES) for some in _chunks(net.stored, MAX_ENTRY_HASHES)]
    parts += [(NO_HASHES, some) for some in _chunks(net.removed, MAX_ENTRY_HASHES)]
    if len(parts) == 2 and _size(net) <= MAX_ENTRY_HASHES:
        parts = [(net.stored, net.removed)]
    return [Change(first_seq + k, *part) for k, part in enumerate(parts)]


def _chunks(hashes: Hashes, size: int) -> list[Hashes]:
    bounds = [*range(0, len(hashes), size), len(hashes)]
    return [hashes[start:end] for start, end in pairwise(bounds)]


def _size(change: Change) -> int:
    return len(change.stored) + len(change.removed)

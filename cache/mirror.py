"""A gateway's copy of the index in memory, which follows the store.

It reads the registry and a snapshot, then the stream. Whatever happens to the store,
the mirror comes back by itself and is right again; until then it is `stale`, and
answers with what it had.

| state | means |
|---|---|
| `empty` | nothing has been read yet: the store has not been reached |
| `loading` | the first snapshot is being read |
| `current` | it follows the stream |
| `stale` | it has an index, and does not know what has changed since |

Worked example: a mirror is `current`, and the server is killed. With the next read it is
`stale`. The server comes back empty, under another run id: the mirror reads the empty
registry, holds nothing and is `current`. The replicas begin new epochs and tell what they
have, and it fills again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cache.mirror_view import MirrorView, MissedEntriesError
from cache.store.index_store import IndexStore, StoreState
from cache.store.link import StoreError
from cache.types import BlockGroup, EpochBit, Hashes, Holder
from cache.usable_prefix import usable_tokens
from infra.tasks import end_all

log = logging.getLogger(__name__)

MirrorState = Literal["empty", "loading", "current", "stale"]

POLL_S = 1.0
"""How often the mirror asks whether the server is still the one that it read."""

# Further behind than this, what is known is too old to count as current.
_MAX_LAG_S = 5.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 2.0


@dataclass
class MirrorCounts:
    """What a mirror has done since it began."""

    applied_entries: int = 0
    """Entries of the stream taken."""

    applied_blocks: int = 0
    """Hashes stored and removed by them."""

    gaps: int = 0
    """Times that entries of the stream, or changes of an epoch, were missing."""

    reloads: int = 0
    """Snapshots read, but for the first."""

    failures: int = 0
    """Times that the store was away, or refused."""


class Mirror:
    """Follows one namespace. Belongs to one event loop; `lookup` does no I/O."""

    def __init__(
        self,
        store: IndexStore,
        groups: Sequence[BlockGroup],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = MirrorCounts()
        self._store = store
        self._groups = tuple(groups)
        self._clock = clock
        self._view: MirrorView | None = None
        self._read_from: StoreState | None = None
        self._is_load_due = True
        self._has_been_current = asyncio.Event()
        self._state: MirrorState = "empty"
        self._state_since = clock()
        self._caught_up_at = clock()
        self._polled_at: float | None = None
        self._last_index = 0
        self._num_evicted_before = 0
        self._tasks: list[asyncio.Task[None]] = []

    # What is known

    @property
    def state(self) -> MirrorState:
        """How far what it says can be relied on; see the module."""
        return self._state

    @property
    def state_s(self) -> float:
        """Seconds since it came into this state."""
        return self._clock() - self._state_since

    @property
    def view(self) -> MirrorView | None:
        """The index; None while `empty` or `loading`. Another one after each snapshot."""
        return self._view

    def live_holders(self) -> Mapping[EpochBit, Holder]:
        """Whom the live bits stand for; some may be replicas that are gone."""
        return {} if self._view is None else self._view.holders()

    def lookup(self, hashes: Sequence[Hashes]) -> NDArray[np.int32]:
        """For each live bit, how many of a prompt's tokens its holder has cached and can
        use.

        `hashes` has for each group those of the prompt's full blocks. Shape:
        [64 * num_words]; 0 for other bits, and empty without an index.
        """
        view = self._view
        if view is None:
            return np.zeros(0, np.int32)
        return usable_tokens(self._groups, hashes, view.table, view.live_mask)

    @property
    def num_blocks(self) -> int:
        """Blocks that it holds."""
        return 0 if self._view is None else len(self._view.table)

    @property
    def num_bytes(self) -> int:
        """Memory that they take."""
        return 0 if self._view is None else self._view.table.num_bytes

    @property
    def num_evicted(self) -> int:
        """Blocks that gave their places to others since it began."""
        current = 0 if self._view is None else self._view.table.num_evicted
        return self._num_evicted_before + current

    @property
    def lag_entries(self) -> int:
        """Entries of the stream that it has not yet taken, as of the latest poll."""
        return 0 if self._view is None else max(self._last_index - self._view.index, 0)

    @property
    def lag_s(self) -> float:
        """Seconds since it last had all that was in the stream."""
        return self._clock() - self._caught_up_at

    # How it follows

    def start(self) -> None:
        """Follow in the background until `close`."""
        self._tasks = [asyncio.create_task(self.run())]

    async def wait_current(self) -> None:
        """Wait until it has followed the stream for the first time."""
        await self._has_been_current.wait()

    async def close(self) -> None:
        """Stop following."""
        await end_all(self._tasks)

    async def run(self) -> None:
        """Step for ever; cancel it to end it."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                await self.step(wait_s=POLL_S)
                if self._state == "current":
                    retry_s = _FIRST_RETRY_S
                if not self._is_load_due:
                    continue
            except StoreError as error:
                level = logging.WARNING if retry_s == _FIRST_RETRY_S else logging.DEBUG
                log.log(level, "the prefix index does not follow the store: %s", error)
            except Exception:
                # The gateway serves on without an index that is current.
                log.exception("the prefix index reads the store anew")
                self._is_load_due = True
                retry_s = _LAST_RETRY_S
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def step(self, wait_s: float) -> None:
        """Do what is due: a snapshot, a poll, the next entries of the stream, for the
        first of which it waits. Raises StoreError, and is stale then."""
        try:
            if self._is_load_due:
                await self._load()
            await self._poll_if_due()
            if not self._is_load_due:
                await self._read_stream(wait_s)
        except MissedEntriesError as missed:
            log.info("the prefix index has missed %s; it reads a snapshot", missed)
            self.counts.gaps += 1
            self._demand_load()
        except BaseException as error:
            if isinstance(error, StoreError):
                self.counts.failures += 1
            self._polled_at = None
            self._enter("empty" if self._view is None else "stale")
            raise

    async def _load(self) -> None:
        if self._view is None:
            self._enter("loading")
        else:
            self.counts.reloads += 1
        begun_at = self._clock()
        run_ids = await self._store.run_ids()
        registry = await self._store.registry()
        view = MirrorView(self._store.section.max_blocks, registry)
        if registry.epochs:
            async for hashes, masks in self._store.snapshot():
                view.merge(hashes, masks)
        self._num_evicted_before = self.num_evicted
        self._view = view
        self._read_from = StoreState(registry.incarnation, run_ids, registry.last_index)
        self._last_index = registry.last_index
        self._caught_up_at = begun_at
        self._is_load_due, self._polled_at = False, None

    async def _poll_if_due(self) -> None:
        """Whether the server is the one that was read, and how far its stream is."""
        now = self._clock()
        if self._polled_at is not None and now - self._polled_at < POLL_S:
            return
        view, read_from = self._view, self._read_from
        assert view is not None
        assert read_from is not None
        view.clean()
        found = await self._store.sweep()
        is_same = (found.incarnation, found.run_ids) == (
            read_from.incarnation,
            read_from.run_ids,
        )
        if not is_same or found.last_index < view.index:
            if read_from.incarnation:
                log.info("the store was restarted, or has lost its registry")
            self._demand_load()
        self._last_index = found.last_index
        self._polled_at = now

    async def _read_stream(self, wait_s: float) -> None:
        view = self._view
        assert view is not None
        assert self._read_from is not None
        if not self._read_from.incarnation:
            # No epoch has begun, and what may be in the stream is of a lost registry.
            self._caught_up_at = self._clock()
            self._enter("current")
            await asyncio.sleep(wait_s)
            return
        is_behind = view.index < self._last_index
        entries = await self._store.entries_after(view.index, 0.001 if is_behind else wait_s)
        if is_behind and not entries:
            raise MissedEntriesError("entries that the stream has no more")
        before = view.num_applied
        for entry in entries:
            view.apply(entry)
        self.counts.applied_entries += len(entries)
        self.counts.applied_blocks += view.num_applied - before
        if view.index >= self._last_index:
            self._caught_up_at = self._clock()
        self._enter("stale" if self.lag_s > _MAX_LAG_S else "current")

    def _demand_load(self) -> None:
        self._is_load_due = True
        self._enter("stale")

    def _enter(self, state: MirrorState) -> None:
        if state != self._state:
            self._state, self._state_since = state, self._clock()
        if state == "current":
            self._has_been_current.set()

    def check_invariants(self) -> None:
        """Without an index it is empty or loads; what it has holds."""
        if self._view is None:
            assert self._state in ("empty", "loading")
        else:
            assert self._state != "empty"
            self._view.check_invariants()

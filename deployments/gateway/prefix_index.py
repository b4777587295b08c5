"""The prefix index of one model, as a gateway asks it: a prompt in, replicas out.

The layout of a model's cache comes with the first engine replica; then a mirror follows
the store. While that cannot be trusted, the index says that it is away, and the router
falls back (`router.policies.FALLBACKS`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cache.block_hash import block_hashes, chain_seed
from cache.expected import ExpectedPrefixes
from cache.mirror import Mirror
from cache.token_ids import token_array
from cache.types import BlockGroup, ChainContext, EpochBit, Holder
from deployments.prefix_store import PrefixStore
from infra.tasks import end_all
from router.prefix_lookup import FoundPrefixes
from router.types import ReplicaId, UsablePrefix

log = logging.getLogger(__name__)

# Caches change slowly: what was right some seconds ago is a better hint than none.
_STALE_FOR_S = 10.0


class PrefixIndex:
    """A `router.prefix_lookup.PrefixLookup`. Belongs to one event loop."""

    def __init__(
        self,
        store: PrefixStore,
        model: str,
        expected_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`model` is the model's reference, which chains start from. `expected_s` is
        `RouterSection.expected_prefix_s`."""
        self._store = store
        self._model = model
        self._expected_s = expected_s
        self._clock = clock
        self._groups: tuple[BlockGroup, ...] = ()
        self._has_ranks = False
        self._mirror: Mirror | None = None
        self._expected: ExpectedPrefixes | None = None
        self._scrub: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Future[Any]] = set()

    @property
    def mirror(self) -> Mirror | None:
        """The index in memory; None before the first engine replica is known."""
        return self._mirror

    def learn(self, replicas: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over how the running replicas cache; the last that tells it counts."""
        told = [r["groups"] for r in replicas.values() if r.get("groups")]
        if not told:
            return
        self._has_ranks = any(len(r.get("dp_ranks", ())) > 1 for r in replicas.values())
        groups = msgspec.convert(told[-1], tuple[BlockGroup, ...])
        if groups != self._groups:
            self._groups = groups
            self._follow()

    def look_up(
        self, token_ids: Sequence[int], adapter: str | None, cache_salt: str | None
    ) -> FoundPrefixes | None:
        """See `PrefixLookup.look_up`."""
        mirror, expected = self._mirror, self._expected
        if mirror is None or expected is None or not _can_be_trusted(mirror):
            return None
        tokens = token_array(token_ids)
        context = ChainContext(self._model, adapter, cache_salt)
        hashes = [
            block_hashes(tokens, group.block_size, chain_seed(context, i, group.block_size))
            for i, group in enumerate(self._groups)
        ]
        # The last token is always computed.
        most = max(len(tokens) - 1, 0)
        usable = _by_replica(
            mirror.live_holders(),
            np.minimum(mirror.lookup(hashes), most),
            has_ranks=self._has_ranks,
        )
        for replica_id, num_tokens in expected.usable(hashes, self._clock()).items():
            _raise_to(usable, ReplicaId(replica_id), min(num_tokens, most))
        return FoundPrefixes(usable, lambda to: expected.expect(to, hashes, self._clock()))

    async def wait_current(self) -> None:
        """Wait until the index can be asked, if the model has one."""
        if self._mirror is not None:
            await self._mirror.wait_current()

    def status(self) -> dict[str, Any]:
        """What `coterie status` shows of it."""
        mirror = self._mirror
        if mirror is None:
            return {"state": "empty"}
        return {
            "state": mirror.state,
            "num_blocks": mirror.num_blocks,
            "num_bytes": mirror.num_bytes,
            "num_holders": len(mirror.live_holders()),
            "lag_s": round(mirror.lag_s, 3),
        }

    async def close(self) -> None:
        """Stop following."""
        self._stop()
        await asyncio.gather(*self._closing)

    def _follow(self) -> None:
        self._stop()
        store = self._store.of_model(self._model, self._groups)
        self._mirror = Mirror(store, self._groups)
        self._mirror.start()
        self._expected = ExpectedPrefixes(self._groups, self._expected_s)
        self._scrub = asyncio.create_task(self._store.scrubber_of(store).run())

    def _stop(self) -> None:
        mirror, scrub, self._mirror, self._scrub = self._mirror, self._scrub, None, None
        if mirror is not None and scrub is not None:
            closing = asyncio.gather(mirror.close(), end_all([scrub]))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _can_be_trusted(mirror: Mirror) -> bool:
    is_fresh = mirror.state == "stale" and mirror.state_s < _STALE_FOR_S
    return mirror.state == "current" or is_fresh


def _by_replica(
    holders: Mapping[EpochBit, Holder],
    usable: NDArray[np.int32],  # [num_bits]
    *,
    has_ranks: bool,
) -> dict[ReplicaId, UsablePrefix]:
    """Of a replica's ranks the one with the most counts."""
    found: dict[ReplicaId, UsablePrefix] = {}
    for bit in np.flatnonzero(usable).tolist():
        holder = holders[bit]
        replica_id, tokens = ReplicaId(holder.replica_id), int(usable[bit])
        known = found.get(replica_id, UsablePrefix())
        device, host, ranks = known.device_tokens, known.host_tokens, known.rank_tokens
        if holder.tier == "device":
            device = max(device, tokens)
            ranks = ranks | {holder.dp_rank: tokens} if has_ranks else ranks
        else:
            host = max(host, tokens)
        found[replica_id] = UsablePrefix(device, host, ranks)
    return found


def _raise_to(
    found: dict[ReplicaId, UsablePrefix], replica_id: ReplicaId, device_tokens: int
) -> None:
    known = found.get(replica_id, UsablePrefix())
    if device_tokens > known.device_tokens:
        found[replica_id] = msgspec.structs.replace(known, device_tokens=device_tokens)

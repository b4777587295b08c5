"""The scrub: bits of ended epochs are taken out of all entries, and are free again.

One pass at a time: whoever has the lease goes over all keys of all primaries, a page a
step; where it goes away, another goes on from the last page that it saved. Before the
pass the bits are fenced in every shard: a replica that does not know that its epoch has
ended can write them no more, so that what is written later cannot be missed.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cache.store.index_store import IndexStore, by_slot
from cache.store.keys import EntryKeys
from cache.store.link import Command, Link, StoreError, function_call
from cache.store.masks import mask_of_bits
from cache.store.registry import Registry
from cache.types import NUM_SHARDS

log = logging.getLogger(__name__)

PAGE_KEYS = 500
"""Keys that the server looks at in one step, about."""

_LEASE_MS = 30_000
_PAUSE_S = 0.02
_IDLE_S = 10.0


@dataclass(frozen=True)
class ScrubPass:
    """How far a pass is, as the registry keeps it."""

    incarnation: str
    run_ids: tuple[str, ...]
    """Of the primaries; where they are others, the cursor means nothing."""

    bit_to_number: Mapping[str, int]
    """Bits to take out, and the numbers of their epochs."""

    node: int = 0
    cursor: str = "0"

    def encode(self) -> str:
        """As text."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def decode(cls, text: bytes) -> "ScrubPass | None":
        """None for what is no pass, as the empty text."""
        try:
            fields = json.loads(text)
            return cls(**fields | {"run_ids": tuple(fields["run_ids"])})
        except (ValueError, TypeError, KeyError):
            return None


class Scrubber:
    """Scrubs one namespace, a step at a time. Safe beside others of its kind."""

    def __init__(self, link: Link, store: IndexStore) -> None:
        self._link = link
        self._store = store
        self._token = secrets.token_hex(8)
        self._pass: ScrubPass | None = None
        self.num_freed = 0
        """Bits that it has made free."""

    async def run(self) -> None:
        """Step for ever; cancel it to end it."""
        while True:
            try:
                has_more = await self.step()
            except StoreError as error:
                log.debug("scrub: %s", error)
                has_more = False
            except Exception:
                # Bits stay taken, and others may scrub.
                log.exception("the scrub of the prefix index failed")
                has_more = False
            await asyncio.sleep(_PAUSE_S if has_more else _IDLE_S)

    async def step(self) -> bool:
        """One page. False where there is nothing to do, or another does it.

        Raises StoreError; the pass goes on with the next step.
        """
        if self._pass is None:
            self._pass = await self._begin()
            return self._pass is not None
        nodes = await self._link.nodes()
        if tuple(node.run_id for node in nodes) != self._pass.run_ids:
            self._pass = None
            return True
        if self._pass.node == len(nodes):
            await self._finish(self._pass)
            self._pass = None
            return False
        # The registry may be another's by now: what is an orphan to this pass then lives.
        self._pass = await self._save(self._pass)
        if self._pass is not None:
            reached = await self._page(self._pass, nodes[self._pass.node])
            self._pass = await self._save(reached)
        return self._pass is not None

    async def _begin(self) -> ScrubPass | None:
        registry = await self._store.registry()
        if not (registry.ended or registry.has_orphans):
            return None
        saved = await self._call("scrub_take", self._token, _LEASE_MS)
        if saved is None:
            return None
        resumed, run_ids = ScrubPass.decode(saved), await self._store.run_ids()
        incarnation = registry.incarnation.decode()
        started = (incarnation, run_ids)
        if resumed is not None and (resumed.incarnation, resumed.run_ids) == started:
            return resumed
        bit_to_number = {str(bit): number for bit, number in (registry.ended or {}).items()}
        await self._fence(registry, bit_to_number)
        return await self._save(ScrubPass(incarnation, run_ids, bit_to_number))

    async def _fence(self, registry: Registry, bit_to_number: Mapping[str, int]) -> None:
        args = [word for pair in bit_to_number.items() for word in pair]
        if not args:
            return
        keys = EntryKeys(self._store.namespace, registry.incarnation)
        fences = [keys.fence_key(shard) for shard in range(NUM_SHARDS)]
        await self._link.call_each([function_call("fence", [key], *args) for key in fences])

    async def _page(self, under_way: ScrubPass, node: Any) -> ScrubPass:
        namespace = self._store.namespace
        cursor, found = await self._link.scan(
            node, under_way.cursor.encode(), namespace.pattern, PAGE_KEYS
        )
        keys = EntryKeys(namespace, under_way.incarnation.encode())
        await self._clean(keys.select(found), keys.orphans(found), under_way)
        if cursor == b"0":
            return replace(under_way, node=under_way.node + 1, cursor="0")
        return replace(under_way, cursor=cursor.decode())

    async def _clean(
        self, entries: Sequence[bytes], orphans: Sequence[bytes], under_way: ScrubPass
    ) -> None:
        mask = mask_of_bits(int(bit) for bit in under_way.bit_to_number)
        is_clustered = self._link.is_clustered
        calls = []
        for places in by_slot(entries, is_clustered) if mask else []:
            calls.append(function_call("scrub", [entries[i] for i in places], mask))
        for places in by_slot(orphans, is_clustered):
            named = [orphans[i] for i in places]
            calls.append(Command(named[0], ("DEL", *named)))
        if calls:
            await self._link.call_each(calls)

    async def _save(self, reached: ScrubPass) -> ScrubPass | None:
        """None where another has taken the pass over."""
        is_ours = await self._call("scrub_save", self._token, _LEASE_MS, reached.encode())
        return reached if is_ours else None

    async def _finish(self, done: ScrubPass) -> None:
        pairs = [word for pair in done.bit_to_number.items() for word in pair]
        if await self._call("scrub_done", self._token, *pairs):
            self.num_freed += len(done.bit_to_number)

    async def _call(self, name: str, *args: Any) -> Any:
        key = self._store.namespace.registry_key
        (answer,) = await self._link.call_each([function_call(name, [key], *args)])
        return answer

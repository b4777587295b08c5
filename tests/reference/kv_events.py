"""Slow twins of what becomes of KV events: all of it thought through from the start."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cache.block_hash import block_hashes, chain_seed
from cache.types import BlockGroup, ChainContext
from deployments.engine.kv_events.layout import GroupLayout

_TIERS = {"GPU": "device", "CPU": "host"}


def chain(
    tokens: Sequence[int], context: ChainContext, groups: Sequence[BlockGroup], place: int
) -> list[int]:
    """Hashes of the full blocks of a prefix in one group."""
    size = groups[place].block_size
    hashes = block_hashes(
        np.array(tokens, np.uint32), size, chain_seed(context, place, size)
    ).tolist()
    return [int(block) for block in hashes]


class SlowCache:
    """Counts copies, and knows of each block the whole prefix that it ends."""

    def __init__(self, model: str, layout: GroupLayout) -> None:
        self._model = model
        self._layout = layout
        self._prefixes: dict[bytes, tuple[ChainContext, list[int]]] = {}
        self._copies: Counter[tuple[str, int, bytes]] = Counter()

    def apply(self, events: Iterable[dict[str, Any]]) -> None:
        """Take over one batch."""
        events = list(events)
        for event in events:
            is_here = event.get("locality") != "REMOTE"
            if event["type"] == "BlockStored" and event["medium"] == "GPU" and is_here:
                self._learn(event)
        for event in events:
            if event["type"] == "AllBlocksCleared":
                self._copies.clear()
            elif event["medium"] in _TIERS and event.get("locality") != "REMOTE":
                self._count(event)

    def _learn(self, event: dict[str, Any]) -> None:
        blocks, size = event["block_hashes"], event["block_size"]
        if size * len(blocks) != len(event["token_ids"]):
            return
        parent = event["parent_block_hash"]
        if parent is None:
            keys = [
                k for k in (event["extra_keys"] or [[]])[0] or [] if k != event["lora_name"]
            ]
            context = ChainContext(self._model, event["lora_name"], keys[0] if keys else None)
            prefix: list[int] = []
        elif parent in self._prefixes:
            context, prefix = self._prefixes[parent]
        else:
            return
        for i, block in enumerate(blocks):
            tokens = prefix + event["token_ids"][: (i + 1) * size]
            self._prefixes[block] = (context, tokens)

    def _count(self, event: dict[str, Any]) -> None:
        tier, member = _TIERS[event["medium"]], event["group_idx"]
        for block in event["block_hashes"]:
            if event["type"] == "BlockStored":
                self._copies[tier, member, block] += block in self._prefixes
            elif self._copies[tier, member, block]:
                self._copies[tier, member, block] -= 1

    def held(self, tier: str) -> set[int]:
        """Our hashes of all that a tier holds."""
        groups = self._layout.groups
        return {
            chain(tokens, context, groups, place)[-1]
            for place in range(len(groups))
            for block, (context, tokens) in self._prefixes.items()
            if all(
                self._copies[tier, member, block]
                for member, group in enumerate(self._layout.member_to_group)
                if group == place
            )
        }


def usable_prefix(
    held: set[int],
    tokens: Sequence[int],
    context: ChainContext,
    groups: Sequence[BlockGroup],
) -> int:
    """The longest prefix, in tokens, that every group accepts."""
    chains = [chain(tokens, context, groups, place) for place in range(len(groups))]
    return max(
        length
        for length in range(len(tokens) + 1)
        if all(
            _accepts(held, blocks, group, length)
            for blocks, group in zip(chains, groups, strict=True)
        )
    )


def _accepts(held: set[int], blocks: list[int], group: BlockGroup, length: int) -> bool:
    if length % group.block_size:
        return False
    before = blocks[: length // group.block_size]
    if group.kind == "recurrent":
        before = before[-1:]
    elif group.window_tokens is not None:
        num_needed = -(-(group.window_tokens - 1) // group.block_size)
        before = before[len(before) - num_needed :] if num_needed < len(before) else before
    return held.issuperset(before)

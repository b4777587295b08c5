"""KV events as vLLM makes them, and a sink that keeps what it is told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cache.types import BlockGroup, Change, Tier
from deployments.engine.kv_events.layout import GroupLayout

BLOCK_SIZE = 2
MODEL = "m"
FULL = BlockGroup("full", BLOCK_SIZE)
SLIDING = BlockGroup("sliding_window", BLOCK_SIZE, 3)
RECURRENT = BlockGroup("recurrent", BLOCK_SIZE)
ONE_GROUP = GroupLayout((FULL,), (0,))

Event = dict[str, Any]


def engine_hash(
    tokens: Sequence[int], salt: str | None = None, adapter: str | None = None
) -> bytes:
    """Stands for vLLM's own: the same for the same prefix and context."""
    return repr((tuple(tokens), salt, adapter)).encode()


def stored(
    tokens: Sequence[int],
    begin: int = 0,
    salt: str | None = None,
    adapter: str | None = None,
    **fields: Any,
) -> Event:
    """The prefix `tokens` is stored from its block `begin` on.

    With `kept`, only these of its blocks are, counted from the prefix's first.
    """
    num_blocks = len(tokens) // BLOCK_SIZE
    kept = fields.pop("kept", range(begin, num_blocks))
    ends = [(block + 1) * BLOCK_SIZE for block in kept]
    keys = [[k for k in (adapter, salt if not block else None) if k] or None for block in kept]
    return {
        "type": "BlockStored",
        "block_hashes": [engine_hash(tokens[:end], salt, adapter) for end in ends],
        "parent_block_hash": (
            engine_hash(tokens[: begin * BLOCK_SIZE], salt, adapter) if begin else None
        ),
        "token_ids": list(tokens[begin * BLOCK_SIZE : num_blocks * BLOCK_SIZE]),
        "block_size": BLOCK_SIZE,
        "lora_id": 1 if adapter else None,
        "medium": "GPU",
        "lora_name": adapter,
        "extra_keys": keys or None,
        "group_idx": 0,
    } | fields


def removed(
    tokens: Sequence[int], salt: str | None = None, adapter: str | None = None, **fields: Any
) -> Event:
    """One copy of the last block of the prefix is gone."""
    return {
        "type": "BlockRemoved",
        "block_hashes": [engine_hash(tokens, salt, adapter)],
        "medium": "GPU",
        "group_idx": 0,
    } | fields


CLEARED: Event = {"type": "AllBlocksCleared"}


def batch(events: Iterable[Event]) -> bytes:
    """As it goes over the wire."""
    return msgspec.msgpack.encode([0.5, list(events), 0])


@dataclass
class KeptChanges:
    """A `ChangeSink` that keeps what each holder has, and all that it was told."""

    held: dict[tuple[int, Tier], set[int]] = field(default_factory=dict)
    told: list[tuple[str, int, Tier]] = field(default_factory=list)
    next_seq: dict[tuple[int, Tier], int] = field(default_factory=dict)

    def on_change(self, dp_rank: int, tier: Tier, change: Change) -> None:
        self.told.append(("change", dp_rank, tier))
        key = (dp_rank, tier)
        assert change.seq == self.next_seq.get(key, 0)
        assert not set(change.stored.tolist()) & set(change.removed.tolist())
        self.next_seq[key] = change.seq + 1
        held = self.held.setdefault(key, set())
        held |= set(change.stored.tolist())
        held -= set(change.removed.tolist())

    def on_clear(self, dp_rank: int, tier: Tier) -> None:
        self._begin("clear", dp_rank, tier)

    def on_lost(self, dp_rank: int, tier: Tier) -> None:
        self._begin("lost", dp_rank, tier)

    def _begin(self, what: str, dp_rank: int, tier: Tier) -> None:
        self.told.append((what, dp_rank, tier))
        self.held[dp_rank, tier] = set()
        self.next_seq[dp_rank, tier] = 0

"""The nouns of the prefix index.

A *block* is the KV of `block_size` tokens; its *hash* names it and all before it.
A *holder* is a replica's cache (of one data-parallel rank, in one tier), and an
*epoch* one life of it. Each epoch has a *bit* of its own in the bitmaps of the
index; an epoch that has ended makes all its entries void at once.

Worked example: the replica `e1` starts and gets bit 3. It stores two blocks, whose
hashes then have bit 3 set. It dies: bit 3 is no longer among the live bits, and a
lookup of both hashes finds no holder, although their bitmaps are as they were.
"""

from dataclasses import dataclass
from typing import Literal, NewType

import numpy as np
from numpy.typing import NDArray

BlockHash = NewType("BlockHash", int)
"""Unsigned, 64 bits. Its top 8 bits are the chain's shard; never 0."""

EpochBit = NewType("EpochBit", int)
"""Position in the bitmaps, from 0."""

Hashes = NDArray[np.uint64]
Tokens = NDArray[np.uint32]
Tier = Literal["device", "host"]
GroupKind = Literal["full", "sliding_window", "recurrent"]

NUM_SHARDS = 256
"""Shards of chains; a chain's blocks are all in one."""


@dataclass(frozen=True)
class BlockGroup:
    """A group of a model's layers that cache alike.

    `window_tokens` is set for `sliding_window` alone. A `recurrent` group keeps
    state at the ends of some blocks only.
    """

    kind: GroupKind
    block_size: int
    window_tokens: int | None = None


@dataclass(frozen=True)
class ChainContext:
    """What else than tokens decides whether a prefix can be shared."""

    model: str
    adapter: str | None = None
    cache_salt: str | None = None


@dataclass(frozen=True)
class Holder:
    """Who has blocks: a replica's data-parallel rank, in one tier of memory."""

    replica_id: str
    dp_rank: int = 0
    tier: Tier = "device"


@dataclass(frozen=True)
class Epoch:
    """One life of a holder's cache, with the bit that stands for it."""

    holder: Holder
    bit: EpochBit
    number: int
    """Counts the epochs given out in a namespace; never used twice."""


@dataclass(frozen=True, eq=False)
class Change:
    """What a holder's cache has stored and removed, in the order of its batches.

    `seq` counts an epoch's changes from 0 without gaps. A hash that is both stored
    and removed in one change is removed last, so it is in `removed` alone.
    """

    seq: int
    stored: Hashes  # [num_stored]
    removed: Hashes  # [num_removed]

"""How much of a prompt each holder can take from its cache, over all cache groups.

A model's groups cache alike or not, and a prefix is usable where each group has what
it needs to go on after it. Of n tokens, which must be whole blocks of every group:

| group          | needs of the blocks before token n                              |
|----------------|-----------------------------------------------------------------|
| full           | all                                                             |
| sliding_window | the last ceil((window_tokens - 1) / block_size), or all if fewer |
| recurrent      | the last                                                        |

The next token looks back on itself and on `window_tokens` - 1 others. This is how
vLLM finds the longest hit (`HybridKVCacheCoordinator.find_longest_cache_hit`); it
computes at least a prompt's last token, so it never uses the whole of a prompt.

Worked example: a full group and a window of 33 tokens, both in blocks of 16, and 10
blocks of which a holder has 0 to 7 of the first group, and 3, 4, 6, 7 of the second.
All groups accept 8 blocks (0 to 7; 6 and 7): 128 tokens. Were block 7 of the second
group gone, they would accept 5 (0 to 4; 3 and 4): 80 tokens.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numba import types
from numpy.typing import NDArray

from cache.array_types import BITMAPS
from cache.prefix_table import PrefixTable
from cache.types import BlockGroup, Hashes
from infra.compiled import compiled, inlined

_WORD_BITS = 64


def usable_tokens(
    groups: Sequence[BlockGroup],
    hashes: Sequence[Hashes],
    table: PrefixTable,
    live_mask: Hashes,
) -> NDArray[np.int32]:
    """Tokens of the prompt that each live bit's holder can take from its cache.

    `hashes` has for each group those of all the prompt's full blocks; a prompt that
    one group has no full block of has no usable prefix. Shape: [64 * len(live_mask)];
    0 for bits that are not live.
    """
    if len(groups) == 1 and groups[0].kind == "full":
        tokens = table.leading_blocks(hashes[0], live_mask)
        tokens *= groups[0].block_size
        return tokens
    assert len(groups) == len(hashes) > 0
    alignment = math.lcm(*(group.block_size for group in groups))
    tokens = _limits(groups, hashes, table, live_mask)
    if any(group.block_size != alignment for group in groups):
        tokens -= tokens % alignment
    for_partial = [i for i, group in enumerate(groups) if group.kind != "full"]
    if for_partial and tokens.any():
        parts = [(groups[i], hashes[i]) for i in for_partial]
        _walk_down(parts, table, alignment, tokens)
    return tokens


def num_needed_blocks(group: BlockGroup) -> int:
    """How many of the last blocks before a token the group needs to go on from it."""
    if group.kind == "recurrent":
        return 1
    assert group.window_tokens is not None
    return -(-(group.window_tokens - 1) // group.block_size)


def _limits(
    groups: Sequence[BlockGroup],
    hashes: Sequence[Hashes],
    table: PrefixTable,
    live_mask: Hashes,
) -> NDArray[np.int32]:
    """What the full groups accept, of what every group has full blocks of."""
    sizes = [group.block_size for group in groups]
    most = min(len(found) * size for found, size in zip(hashes, sizes, strict=True))
    runs = [
        table.leading_blocks(found, live_mask) * np.int32(group.block_size)
        for group, found in zip(groups, hashes, strict=True)
        if group.kind == "full"
    ]
    if not runs:
        bits = np.unpackbits(live_mask.view(np.uint8), bitorder="little")
        return bits * np.int32(most)
    shortest: NDArray[np.int32] = functools.reduce(np.minimum, runs)
    return np.minimum(shortest, np.int32(most))


def _walk_down(
    parts: Sequence[tuple[BlockGroup, Hashes]],
    table: PrefixTable,
    alignment: int,
    tokens: NDArray[np.int32],
) -> None:
    """Lower each bit's tokens to the most that these groups accept as well."""
    longest = int(tokens.max())
    found = [hashes[: longest // group.block_size] for group, hashes in parts]
    starts = np.cumsum([0, *map(len, found[:-1])])
    shapes = [
        (start, group.block_size, num_needed_blocks(group))
        for start, (group, _) in zip(starts, parts, strict=True)
    ]
    bitmaps = table.bitmaps(np.concatenate(found))
    _lower(np.array(shapes, np.int64), bitmaps, alignment, tokens)


@inlined
def _highest_missing(bitmaps: NDArray[np.uint64], bit: int, start: int, end: int) -> int:
    """The highest row in [start, end) without the bit; `end` if all have it."""
    word, place = bit // _WORD_BITS, np.uint64(bit % _WORD_BITS)
    for row in range(end - 1, start - 1, -1):
        # A bit that the table has never seen is beyond its bitmaps.
        if word >= bitmaps.shape[1] or not bitmaps[row, word] >> place & np.uint64(1):
            return row
    return end


@inlined
def _accepted(
    shapes: NDArray[np.int64], bitmaps: NDArray[np.uint64], bit: int, tokens: int
) -> int:
    """`tokens` if every group accepts them, otherwise fewer, which are not less than
    the most that all accept."""
    for group in range(len(shapes)):
        start, block_size, num_needed = shapes[group]
        num_blocks = tokens // block_size
        first = start + max(0, num_blocks - num_needed)
        missing = _highest_missing(bitmaps, bit, first, start + num_blocks)
        if missing < start + num_blocks:
            # Every larger prefix up to here needs the missing block too.
            return int((missing - start) * block_size)
    return tokens


@compiled(types.void(types.int64[:, ::1], BITMAPS, types.int64, types.int32[::1]))
def _lower(
    shapes: NDArray[np.int64],  # [num_groups, 3]: first row, block size, needed blocks
    bitmaps: NDArray[np.uint64],  # [num_blocks of all groups, num_words]
    alignment: int,
    tokens: NDArray[np.int32],  # [num_bits]
) -> None:
    for bit in range(len(tokens)):
        while tokens[bit] > 0:
            accepted = _accepted(shapes, bitmaps, bit, tokens[bit])
            if accepted == tokens[bit]:
                break
            tokens[bit] = accepted - accepted % alignment

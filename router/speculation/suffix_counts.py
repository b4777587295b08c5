"""Drafts from all that an engine has said: which token has followed these, and how often.

Agents answer the same question again, code repeats its idioms, forms are filled alike. For each
token said, the contexts of the last 3, 5, 8 and 12 tokens before it are counted in one
table of bounded size, for all sequences together. A draft takes, token by token, the
continuation of the context whose kind has proven best. (The idea of suffix statistics over many
requests: Oliaro et al., "SuffixDecoding", 2024, which keeps them in trees.)

A context's entry holds its two commonest continuations, about: a third displaces the second.
Where a context finds no room, it takes that of the least counted of `WINDOW` entries, which
are halved at each refusal before; so what is no longer said gives way.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled, inlined
from router.speculation.types import NO_DRAFT, Draft, TokenIds

ORDERS = (3, 5, 8, 12)
"""Lengths of contexts, in tokens."""

WINDOW = 8
"""Entries that a context may stand in."""

MAX_COUNT = 256
BYTES_PER_ENTRY = 24

_NUM_BUCKETS = 4
_ORDERS = np.array(ORDERS, np.int64)
_FREE = np.uint64(0)

TABLE = types.Tuple((types.uint64[::1], types.int32[:, ::1], types.int32[:, ::1]))
"""The fields of `Table`."""


Arrays = tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]


class Table(NamedTuple):
    """Contexts by their hash. Entry 0 of the last axis is the commonest continuation."""

    contexts: NDArray[np.uint64]  # [num_entries]; 0: free
    token_ids: NDArray[np.int32]  # [num_entries, 2]
    counts: NDArray[np.int32]  # [num_entries, 2]

    @classmethod
    def of(cls, num_entries: int) -> "Table":
        """An empty one; `num_entries` is a power of 2."""
        shape = (num_entries, 2)
        return cls(
            np.zeros(num_entries, np.uint64),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
        )


@inlined
def _context_of(tokens: TokenIds, end: int, order: int) -> np.uint64:
    """Hash of the `order` tokens before `end`; never 0. (splitmix64's mixer.)"""
    mixed = np.uint64(order)
    for i in range(end - order, end):
        mixed = (mixed ^ np.uint64(tokens[i])) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return max(mixed, np.uint64(1))


@inlined
def _find(contexts: NDArray[np.uint64], context: np.uint64) -> int:
    """The context's entry; -1 where it has none."""
    mask = len(contexts) - 1
    for i in range(WINDOW):
        entry = (int(context & np.uint64(mask)) + i) & mask
        if contexts[entry] == context:
            return entry
    return -1


@inlined
def _room_for(table: Table, context: np.uint64) -> int:
    """An entry for a new context; -1 where all there have been counted more than once."""
    mask = len(table.contexts) - 1
    least, least_entry = MAX_COUNT * 2, -1
    for i in range(WINDOW):
        entry = (int(context & np.uint64(mask)) + i) & mask
        total = table.counts[entry, 0] + table.counts[entry, 1]
        if table.contexts[entry] == _FREE or total < least:
            least, least_entry = total, entry
            if table.contexts[entry] == _FREE:
                break
    if table.contexts[least_entry] != _FREE and least > 1:
        for i in range(WINDOW):
            entry = (int(context & np.uint64(mask)) + i) & mask
            table.counts[entry, 0] = (table.counts[entry, 0] + 1) // 2
            table.counts[entry, 1] //= 2
        return -1
    return least_entry


@inlined
def _count(table: Table, context: np.uint64, token_id: int) -> None:
    entry = _find(table.contexts, context)
    if entry < 0:
        entry = _room_for(table, context)
        if entry < 0:
            return
        table.contexts[entry] = context
        table.counts[entry, :] = 0
    counts, token_ids = table.counts[entry], table.token_ids[entry]
    which = 0 if counts[0] == 0 or token_ids[0] == token_id else 1
    if token_ids[which] != token_id or counts[which] == 0:
        token_ids[which], counts[which] = token_id, 0
    counts[which] += 1
    if counts[1] > counts[0]:
        counts[0], counts[1] = counts[1], counts[0]
        token_ids[0], token_ids[1] = token_ids[1], token_ids[0]
    if counts[0] >= MAX_COUNT:
        counts[0] //= 2
        counts[1] //= 2


@compiled(types.void(TABLE, types.int32[::1], types.int64))
def _add(arrays: Arrays, tokens: TokenIds, start: int) -> None:
    contexts, token_ids, counts = arrays
    table = Table(contexts, token_ids, counts)
    for end in range(start, len(tokens)):
        for i in range(len(_ORDERS)):
            if _ORDERS[i] <= end:
                _count(table, _context_of(tokens, end, _ORDERS[i]), tokens[end])


@inlined
def _bucket_of(top: int, second: int) -> int:
    """How a context's counts speak for its first continuation."""
    if top + second == 1:
        return 0
    if top < 2 * second:
        return 1
    return 2 if top + second < 4 else 3


@compiled(
    types.int64(TABLE, types.float64[::1], types.int32[::1], types.int64, types.int64[::1])
)
def _continue(
    arrays: Arrays,
    rates: NDArray[np.float64],
    tokens: TokenIds,
    num_known: int,
    kinds: NDArray[np.int64],
) -> int:
    """Fill `tokens` up from `num_known`, and `kinds`; gives how many there were."""
    contexts, token_ids, counts = arrays
    for end in range(num_known, len(tokens)):
        best, best_entry = -1, -1
        for i in range(len(_ORDERS) - 1, -1, -1):
            if _ORDERS[i] > end:
                continue
            entry = _find(contexts, _context_of(tokens, end, _ORDERS[i]))
            if entry < 0:
                continue
            kind = i * _NUM_BUCKETS + _bucket_of(counts[entry, 0], counts[entry, 1])
            if best < 0 or rates[kind] > rates[best]:
                best, best_entry = kind, entry
        if best < 0:
            return end - num_known
        tokens[end] = token_ids[best_entry, 0]
        kinds[end - num_known] = best
    return len(tokens) - num_known


class SuffixCounts:
    """The table, and drafts from it. A token's kind is its context's length and counts."""

    prior_rates = tuple(
        rate for longest in (0.3, 0.5, 0.65, 0.7) for rate in (longest, 0.3, 0.6, 0.8)
    )

    def __init__(self, max_bytes: int) -> None:
        num_entries = max(max_bytes // BYTES_PER_ENTRY, WINDOW)
        self._table = Table.of(1 << (num_entries.bit_length() - 1))
        self._arrays = (self._table.contexts, self._table.token_ids, self._table.counts)

    def saw(self, tokens: TokenIds, start: int) -> None:
        """Count the tokens from `start` on. Shape: [num_tokens], contiguous. 1 us for 3."""
        _add(self._arrays, tokens, start)

    def draft(self, tokens: TokenIds, max_tokens: int, rates: NDArray[np.float64]) -> Draft:
        """What is likeliest next. `rates` are those of the kinds: [num_kinds]."""
        known = tokens[-max(ORDERS) :]
        room = np.empty(len(known) + max_tokens, np.int32)
        room[: len(known)] = known
        kinds = np.empty(max_tokens, np.int64)
        found = _continue(self._arrays, rates, room, len(known), kinds)
        if not found:
            return NO_DRAFT
        return Draft(room[len(known) : len(known) + found].tolist(), kinds[:found].tolist())

    def check_invariants(self) -> None:
        """The commonest continuation is first; free entries hold nothing."""
        table = self._table
        assert (table.counts[:, 0] >= table.counts[:, 1]).all()
        assert (table.counts >= 0).all()
        assert (table.counts < MAX_COUNT).all()
        is_free = table.contexts == _FREE
        assert (table.counts[is_free] == 0).all()
        assert (table.counts[~is_free, 0] > 0).all()

"""Shares made a plan: a slot for each pair, and the pairs of each host in order.

Of an expert's pairs the first go to its first copy, as many as are that copy's share,
and so on. So where several experts are split over the same hosts, most tokens are sent
to one of these only.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled, inlined
from router.dispatch.array_types import COPIES, CURSORS, INTS, PAIRS, PLACES
from router.dispatch.types import NO_COPY, Ints


@inlined
def _choose(
    topk_ids: NDArray[np.int32], copies: tuple[Ints, ...], left: Ints, slots: Ints
) -> None:
    """A slot for each pair; `left` are the shares, which are used up."""
    first, slot_of, _, _ = copies
    pair = -1
    for token in range(topk_ids.shape[0]):
        for k in range(topk_ids.shape[1]):
            pair += 1
            expert = topk_ids[token, k]
            if expert < 0:
                continue
            copy, end = first[expert], first[expert + 1]
            while copy < end and left[copy] == 0:
                copy += 1
            slots[pair] = NO_COPY
            if copy < end:
                left[copy] -= 1
                slots[pair] = slot_of[copy]


@inlined
def _count(
    topk_ids: NDArray[np.int32],
    slots: Ints,
    slot_to_host: Ints,
    cursors: tuple[Ints, ...],
    num_rows: Ints,
) -> None:
    """Pairs of each slot, into the first cursors, and rows of each host."""
    num_pairs, _, last_token = cursors
    num_pairs[:] = 0
    num_rows[:] = 0
    last_token[:] = -1
    pair = -1
    for token in range(topk_ids.shape[0]):
        for k in range(topk_ids.shape[1]):
            pair += 1
            slot = slots[pair]
            if topk_ids[token, k] < 0 or slot == NO_COPY:
                continue
            num_pairs[slot] += 1
            host = slot_to_host[slot]
            if last_token[host] != token:
                last_token[host] = token
                num_rows[host] += 1


@inlined
def _add_up(
    host_to_first_slot: Ints, cursors: tuple[Ints, ...], rows: Ints, pairs: Ints, experts: Ints
) -> None:
    """From counts to where each slot's pairs and each host's rows begin."""
    next_pair, next_row, last_token = cursors
    num_pairs = 0
    rows[0], pairs[0] = 0, 0
    for host in range(len(experts)):
        experts[host] = 0
        for slot in range(host_to_first_slot[host], host_to_first_slot[host + 1]):
            if next_pair[slot] > 0:
                experts[host] += 1
            next_pair[slot], num_pairs = num_pairs, num_pairs + next_pair[slot]
        pairs[host + 1] = num_pairs
        next_row[host] = rows[host]
        rows[host + 1] += rows[host]
        last_token[host] = -1


@inlined
def _fill(
    topk_ids: NDArray[np.int32],
    places: tuple[Ints, ...],
    cursors: tuple[Ints, ...],
    host_to_first_row: Ints,
    by_pair: Ints,
) -> None:
    """The rows and the pairs of all hosts."""
    slot_to_host, host_to_first_slot = places
    next_pair, next_row, last_token = cursors
    num_pairs = topk_ids.size
    rows = by_pair[4 * num_pairs :]
    pair = -1
    for token in range(topk_ids.shape[0]):
        for k in range(topk_ids.shape[1]):
            pair += 1
            slot = by_pair[pair]
            if topk_ids[token, k] < 0 or slot == NO_COPY:
                continue
            host = slot_to_host[slot]
            if last_token[host] != token:
                last_token[host] = token
                rows[next_row[host]] = token
                next_row[host] += 1
            place = num_pairs + next_pair[slot]
            next_pair[slot] += 1
            by_pair[place] = pair
            by_pair[place + num_pairs] = next_row[host] - 1 - host_to_first_row[host]
            by_pair[place + 2 * num_pairs] = slot - host_to_first_slot[host]


@compiled(types.void(PAIRS, COPIES, INTS, PLACES, CURSORS, INTS))
def group(
    topk_ids: NDArray[np.int32],
    copies: tuple[Ints, ...],
    share: Ints,
    places: tuple[Ints, ...],
    cursors: tuple[Ints, ...],
    memory: Ints,
) -> None:
    """Fill a plan's memory, as its `Layout` says. Pairs of ids below 0 are in no parcel,
    and their slots stay as they are."""
    slot_to_host, host_to_first_slot = places
    num_hosts = len(host_to_first_slot) - 1
    rows = memory[: num_hosts + 1]
    pairs = memory[num_hosts + 1 : 2 * num_hosts + 2]
    experts = memory[2 * num_hosts + 2 : 3 * num_hosts + 2]
    by_pair = memory[3 * num_hosts + 2 :]
    _choose(topk_ids, copies, share, by_pair)
    _count(topk_ids, by_pair, slot_to_host, cursors, rows[1:])
    _add_up(host_to_first_slot, cursors, rows, pairs, experts)
    _fill(topk_ids, places, cursors, rows, by_pair)

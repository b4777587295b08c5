"""How many pairs of an expert each of its live copies computes: where policies differ.

An expert with one live copy has no choice. The others are *movable*, and a policy says
where they go:

| policy            | movable experts                                                   |
|-------------------|-------------------------------------------------------------------|
| static            | the first live copy                                               |
| least_loaded      | whole, as they appear, to the host with the least work so far     |
| token_balance     | pair by pair to the host with the fewest pairs so far             |
| activated_experts | whole, most pairs first, to where they are done first; from there |
|                   | `router.dispatch.improvement` goes on                             |

The last is longest processing time first (Graham, "Bounds on Multiprocessing Timing
Anomalies", SIAM J. Appl. Math. 17, 1969) with the cost that METRO balances: in decode a
host's time is that of the weights it touches, so activated experts count, not tokens.
`token_balance` is what dispatch to the copies of EPLB aims at.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled, inlined
from router.dispatch.array_types import COPIES, COUNTS, PAIRS, SECONDS, TABLE, Shares
from router.dispatch.types import FIXED, PER_EXPERT, PER_PAIR, POLICIES, Ints, Seconds

_ACTIVATED_EXPERTS = POLICIES.index("activated_experts")
_LEAST_LOADED = POLICIES.index("least_loaded")
_TOKEN_BALANCE = POLICIES.index("token_balance")


@inlined
def _put(copy: int, num_pairs: int, shares: Shares) -> None:
    """So many pairs more for the copy."""
    host = shares.hosts[copy]
    if shares.share[copy] == 0:
        shares.load_s[host] += shares.costs[host, PER_EXPERT]
        if shares.num_parts[host] == 0:
            shares.load_s[host] += shares.costs[host, FIXED]
        shares.num_parts[host] += 1
    shares.share[copy] += num_pairs
    shares.load_s[host] += shares.costs[host, PER_PAIR] * num_pairs


@inlined
def _count(topk_ids: NDArray[np.int32], first: Ints, num_pairs: Ints, movable: Ints) -> int:
    """Pairs of each expert; the movable ones as they appear, and how many they are."""
    num_movable = 0
    for token in range(topk_ids.shape[0]):
        for k in range(topk_ids.shape[1]):
            expert = topk_ids[token, k]
            if expert < 0:
                continue
            assert expert < len(num_pairs)
            if num_pairs[expert] == 0 and first[expert + 1] - first[expert] > 1:
                movable[num_movable] = expert
                num_movable += 1
            num_pairs[expert] += 1
    return num_movable


@inlined
def _sort_by_pairs(movable: Ints, num_pairs: Ints) -> None:
    """Most first, equals as they were. By insertion: few are out of order."""
    for i in range(1, len(movable)):
        expert = movable[i]
        j = i
        while j > 0 and num_pairs[movable[j - 1]] < num_pairs[expert]:
            movable[j] = movable[j - 1]
            j -= 1
        movable[j] = expert


@inlined
def _least_loaded(expert: int, shares: Shares) -> int:
    """The copy on the host with the least work so far, the first of equals."""
    best: int = shares.first[expert]
    for copy in range(best + 1, shares.first[expert + 1]):
        if shares.load_s[shares.hosts[copy]] < shares.load_s[shares.hosts[best]]:
            best = copy
    return best


@inlined
def _done_first(expert: int, num_pairs: int, shares: Shares) -> int:
    """The copy whose host would be done first with these pairs as well."""
    best, best_s = -1, np.inf
    for copy in range(shares.first[expert], shares.first[expert + 1]):
        host = shares.hosts[copy]
        done_s = shares.load_s[host] + shares.costs[host, PER_EXPERT]
        done_s += shares.costs[host, PER_PAIR] * num_pairs
        if shares.num_parts[host] == 0:
            done_s += shares.costs[host, FIXED]
        if done_s < best_s:
            best, best_s = copy, done_s
    return best


@inlined
def _put_one_by_one(expert: int, num_pairs: int, pairs_of_host: Ints, shares: Shares) -> None:
    """Each pair to the host with the fewest pairs so far, the first of equals."""
    for _ in range(num_pairs):
        best = shares.first[expert]
        for copy in range(best + 1, shares.first[expert + 1]):
            if pairs_of_host[shares.hosts[copy]] < pairs_of_host[shares.hosts[best]]:
                best = copy
        pairs_of_host[shares.hosts[best]] += 1
        _put(best, 1, shares)


@inlined
def _put_single_copies(num_pairs: Ints, pairs_of_host: Ints, shares: Shares) -> None:
    """All experts with one live copy."""
    for expert in range(len(num_pairs)):
        copy = shares.first[expert]
        if num_pairs[expert] > 0 and shares.first[expert + 1] - copy == 1:
            pairs_of_host[shares.hosts[copy]] += num_pairs[expert]
            _put(copy, num_pairs[expert], shares)


@compiled(types.int64(types.int64, PAIRS, COPIES, TABLE, SECONDS, COUNTS, SECONDS))
def share_out(
    policy: int,
    topk_ids: NDArray[np.int32],
    copies: tuple[Ints, ...],
    costs: Seconds,
    busy_s: Seconds,
    counts: tuple[Ints, ...],
    load_s: Seconds,
) -> int:
    """Fill the scratch memory; give the number of movable experts.

    Ids below 0 are passed over.
    """
    for array in counts:
        array[:] = 0
    load_s[:] = busy_s
    num_pairs, movable, share, num_parts, pairs_of_host = counts
    first, _, hosts, experts = copies
    shares = Shares(first, hosts, experts, share, num_parts, load_s, costs)
    num_movable = _count(topk_ids, first, num_pairs, movable)
    _put_single_copies(num_pairs, pairs_of_host, shares)
    if policy == _ACTIVATED_EXPERTS:
        _sort_by_pairs(movable[:num_movable], num_pairs)
    for expert in movable[:num_movable]:
        if policy == _TOKEN_BALANCE:
            _put_one_by_one(expert, num_pairs[expert], pairs_of_host, shares)
            continue
        copy = first[expert]
        if policy == _LEAST_LOADED:
            copy = _least_loaded(expert, shares)
        elif policy == _ACTIVATED_EXPERTS:
            copy = _done_first(expert, num_pairs[expert], shares)
        _put(copy, num_pairs[expert], shares)
    return num_movable

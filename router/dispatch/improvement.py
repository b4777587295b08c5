"""Shares made better: the slowest host is relieved, round by round, while that helps.

A *part* is what one copy computes of its expert in this call. A round takes the slowest
host and looks, breadth first, for a *chain* of hosts where each gives a whole part to
the next, such that the slowest gets quicker and no other comes to be as slow as it was.
The chain may lead back to the slowest: that is an exchange. Where there is none, some
pairs of a part go to another copy, so many that both hosts are done at the same time,
if that makes the slowest quicker by at least what the other host needs to touch the
weights as well: in decode an expert's pairs stay together, in a long prefill they part.
At the end parts move where that saves work and makes the slowest host no slower.
A round begins only while more is to be gained than it takes.

Where all hosts have the same costs and as much to do, and all experts as many pairs, as
in a call of one token, the chains are those of an optimal semi-matching: none is left
only when no other shares have fewer activated experts on the slowest host, or what that
saves is not worthwhile (Harvey, Ladner, Lovász and Tamir, "Semi-matchings for bipartite
graphs and load balancing", J. Algorithms 59, 2006). In general there is no such bound.

Worked example: host a has experts 0 and 1, b has 2; of 0 there is a copy on a alone, of 1
on a and b, of 2 on b and c. With 1 given to b, that would be as slow as a was; but b can
give 2 to c.
"""

import numpy as np
from numba import types

from infra.compiled import compiled, inlined
from router.dispatch.array_types import CHAIN, COPIES, COUNTS, SECONDS, TABLE, Shares
from router.dispatch.types import FIXED, PER_EXPERT, PER_PAIR, Ints, Seconds

_WORTHWHILE = 0.98
"""Of the slowest host's time: a round that leaves more is not worth the search."""

_SEARCH_S = 200e-9
"""What a round may take for each movable expert; so much must be to be gained."""

_LESS = 1 - 1e-9
"""What counts as less must not be rounding."""

_MIN_ROUNDS = 32
_ROUNDS_PER_HOST = 8


@inlined
def _slowest(shares: Shares) -> int:
    """Of the hosts in use; -1 where there is none."""
    slowest = -1
    for host in range(len(shares.load_s)):
        is_slower = slowest < 0 or shares.load_s[host] > shares.load_s[slowest]
        if shares.num_parts[host] > 0 and is_slower:
            slowest = host
    return slowest


@inlined
def _is_even(slowest: int, num_movable: int, shares: Shares) -> bool:
    """Were all hosts done at the same time, not enough would be gained."""
    slowest_s = shares.load_s[slowest]
    total_s = 0.0
    for load_s in shares.load_s:
        total_s += min(load_s, slowest_s)
    gain_s = slowest_s - total_s / len(shares.load_s)
    return bool(gain_s <= max(slowest_s * (1 - _WORTHWHILE), _SEARCH_S * num_movable))


@inlined
def _added_s(copy: int, num_pairs: int, shares: Shares) -> float:
    """What so many pairs more for the copy cost its host."""
    host = shares.hosts[copy]
    added_s: float = shares.costs[host, PER_PAIR] * num_pairs
    if shares.share[copy] == 0:
        added_s += shares.costs[host, PER_EXPERT]
        if shares.num_parts[host] == 0:
            added_s += shares.costs[host, FIXED]
    return added_s


@inlined
def _removed_s(copy: int, shares: Shares) -> float:
    """What its host is spared without the copy's part."""
    host = shares.hosts[copy]
    removed_s: float = (
        shares.costs[host, PER_EXPERT] + shares.costs[host, PER_PAIR] * shares.share[copy]
    )
    if shares.num_parts[host] == 1:
        removed_s += shares.costs[host, FIXED]
    return removed_s


@inlined
def _move(source: int, target: int, num_pairs: int, shares: Shares) -> None:
    """So many pairs of a part, or all, to another copy of the expert."""
    old, new = shares.hosts[source], shares.hosts[target]
    shares.load_s[new] += _added_s(target, num_pairs, shares)
    if shares.share[target] == 0:
        shares.num_parts[new] += 1
    shares.share[target] += num_pairs
    if num_pairs == shares.share[source]:
        shares.load_s[old] -= _removed_s(source, shares)
        shares.num_parts[old] -= 1
    else:
        shares.load_s[old] -= shares.costs[old, PER_PAIR] * num_pairs
    shares.share[source] -= num_pairs


@inlined
def _list_parts(movable: Ints, next_part: Ints, first_part: Ints, shares: Shares) -> None:
    """The movable parts of each host, those of many pairs first: in exchange for these
    there is most to be had."""
    first_part[:] = -1
    for expert in movable[::-1]:
        for copy in range(shares.first[expert], shares.first[expert + 1]):
            if shares.share[copy] > 0:
                next_part[copy] = first_part[shares.hosts[copy]]
                first_part[shares.hosts[copy]] = copy


@inlined
def _begun_s(
    source: int, came_to: Ints, chain_s: Seconds, shares: Shares, limit_s: float
) -> float:
    """When the slowest host is done if a chain goes on with this part; infinity where
    its host would be left too slow, or gives the expert that it got."""
    host = shares.hosts[source]
    if came_to[host] < 0:
        begun_s: float = shares.load_s[host] - _removed_s(source, shares)
        return begun_s if begun_s < limit_s else np.inf
    if shares.experts[came_to[host]] == shares.experts[source]:
        return np.inf
    left_s = chain_s[0, host] - shares.costs[host, PER_EXPERT]
    left_s -= shares.costs[host, PER_PAIR] * shares.share[source]
    if left_s < limit_s or left_s <= shares.load_s[host] / _LESS:
        return float(chain_s[1, host])
    return np.inf


@inlined
def _arrived_s(source: int, target: int, slowest: int, begun_s: float, shares: Shares) -> float:
    """When the target's host is done once it has the source's part as well."""
    host = shares.hosts[target]
    added_s = _added_s(target, shares.share[source], shares)
    if host != slowest:
        return float(shares.load_s[host] + added_s)
    if shares.share[target] > 0:
        return np.inf  # it may be the one that the chain began with
    if shares.num_parts[host] == 1:
        added_s += shares.costs[host, FIXED]
    return begun_s + added_s


@inlined
def _follow_back(source: int, target: int, chain: tuple[Ints, ...], shares: Shares) -> None:
    """Do the moves of the chain that ends with this one, the last first."""
    _, _, came_to, came_from, seen = chain
    while True:
        _move(source, target, shares.share[source], shares)
        host = shares.hosts[source]
        if host == seen[0]:
            return
        source, target = came_from[host], came_to[host]


@inlined
def _leads_on(source: int, came_to: Ints, shares: Shares) -> bool:
    """Another copy of the part's expert is on the slowest host or an unseen one."""
    expert = shares.experts[source]
    for target in range(shares.first[expert], shares.first[expert + 1]):
        if target != source and came_to[shares.hosts[target]] < 0:
            return True
    return False


@inlined
def _go_on(
    source: int, num_seen: int, chain: tuple[Ints, ...], chain_s: Seconds, shares: Shares
) -> int:
    """Follow chains with this part one host further: the number of hosts seen, or -1
    where one was found and its moves are done."""
    _, _, came_to, came_from, seen = chain
    slowest, expert = seen[0], shares.experts[source]
    limit_s = shares.load_s[slowest] * _WORTHWHILE
    begun_s = _begun_s(source, came_to, chain_s, shares, limit_s)
    if begun_s == np.inf:
        return num_seen
    for target in range(shares.first[expert], shares.first[expert + 1]):
        host = shares.hosts[target]
        if target == source or came_to[host] >= 0:
            continue
        arrived_s = _arrived_s(source, target, slowest, begun_s, shares)
        if arrived_s < limit_s:
            _follow_back(source, target, chain, shares)
            return -1
        if host != slowest:
            came_to[host], came_from[host] = target, source
            chain_s[0, host], chain_s[1, host] = arrived_s, begun_s
            seen[num_seen] = host
            num_seen += 1
    return num_seen


@inlined
def _move_along_chain(
    slowest: int, chain: tuple[Ints, ...], chain_s: Seconds, shares: Shares
) -> bool:
    """Find a chain and do its moves; False where there is none."""
    next_part, first_part, came_to, _, seen = chain
    came_to[:] = -1
    seen[0] = slowest
    num_seen, num_done = 1, 0
    while num_done < num_seen:
        part = first_part[seen[num_done]]
        num_done += 1
        while part >= 0:
            if _leads_on(part, came_to, shares):
                num_seen = _go_on(part, num_seen, chain, chain_s, shares)
                if num_seen < 0:
                    return True
            part = next_part[part]
    return False


@inlined
def _num_to_split(source: int, target: int, shares: Shares) -> int:
    """Pairs to move so that both hosts are done at the same time, some staying."""
    old, new = shares.hosts[source], shares.hosts[target]
    gap_s = shares.load_s[old] - shares.load_s[new] - _added_s(target, 0, shares)
    pair_s = shares.costs[old, PER_PAIR] + shares.costs[new, PER_PAIR]
    if gap_s <= 0 or pair_s <= 0:
        return 0
    return int(min(gap_s / pair_s, shares.share[source] - 1))


@inlined
def _split(slowest: int, first_part: Ints, next_part: Ints, shares: Shares) -> bool:
    """Move pairs of the slowest host's parts where that helps most; False where it helps
    nowhere by what it costs to touch the weights once more."""
    slowest_s = shares.load_s[slowest]
    best_s = slowest_s * _WORTHWHILE
    best_source, best_target, best_num = -1, -1, 0
    source = first_part[slowest]
    while source >= 0:
        expert = shares.experts[source]
        for target in range(shares.first[expert], shares.first[expert + 1]):
            host = shares.hosts[target]
            num_pairs = _num_to_split(source, target, shares) if host != slowest else 0
            if num_pairs > 0:
                new_s = shares.load_s[host] + _added_s(target, num_pairs, shares)
                old_s = shares.load_s[slowest] - shares.costs[slowest, PER_PAIR] * num_pairs
                is_paid = max(new_s, old_s) + _added_s(target, 0, shares) <= slowest_s
                if is_paid and max(new_s, old_s) < best_s:
                    best_s = max(new_s, old_s)
                    best_source, best_target, best_num = source, target, num_pairs
        source = next_part[source]
    if best_num > 0:
        _move(best_source, best_target, best_num, shares)
    return best_num > 0


@inlined
def _least_added(source: int, first: int, end: int, limit_s: float, shares: Shares) -> int:
    """The copy where the part adds least, if that is less than what it takes where it is
    and its host is in time; else the part's own."""
    best, best_s = source, _removed_s(source, shares) * _LESS
    for target in range(first, end):
        if target != source:
            added_s = _added_s(target, shares.share[source], shares)
            is_in_time = shares.load_s[shares.hosts[target]] + added_s <= limit_s
            if is_in_time and added_s < best_s:
                best, best_s = target, added_s
    return best


@inlined
def _save_work(movable: Ints, limit_s: float, shares: Shares) -> None:
    """Move parts to where they cost less in all, while no host exceeds the limit."""
    for expert in movable:
        first, end = shares.first[expert], shares.first[expert + 1]
        for source in range(first, end):
            if shares.share[source] > 0:
                target = _least_added(source, first, end, limit_s, shares)
                if target != source:
                    _move(source, target, shares.share[source], shares)


@compiled(types.void(types.int64, COPIES, TABLE, COUNTS, SECONDS, CHAIN, TABLE))
def improve(
    num_movable: int,
    copies: tuple[Ints, ...],
    costs: Seconds,
    counts: tuple[Ints, ...],
    load_s: Seconds,
    chain: tuple[Ints, ...],
    chain_s: Seconds,
) -> None:
    """Make the slowest host as quick as the search can; then save work."""
    first, _, hosts, experts = copies
    shares = Shares(first, hosts, experts, counts[2], counts[3], load_s, costs)
    movable = counts[1][:num_movable]
    for _ in range(max(_MIN_ROUNDS, _ROUNDS_PER_HOST * len(load_s))):
        slowest = _slowest(shares)
        if _is_even(slowest, num_movable, shares):
            break
        _list_parts(movable, chain[0], chain[1], shares)
        is_better = _move_along_chain(slowest, chain, chain_s, shares)
        if not is_better and not _split(slowest, chain[1], chain[0], shares):
            break
    _save_work(movable, load_s[_slowest(shares)], shares)

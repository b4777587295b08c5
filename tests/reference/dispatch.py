"""Dispatch by dictionaries, and by trying everything: the slow twin of `router.dispatch`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

Shares = dict[int, int]
"""From slot to the number of pairs that it computes; slots without pairs are not in it."""


@dataclass(frozen=True)
class Layer:
    """One layer's copies, and what its hosts cost."""

    held: Sequence[int]
    """Expert of each slot, or -1."""
    slot_to_host: Sequence[int]
    is_live: Sequence[bool]
    costs: Sequence[tuple[float, float, float]]
    """Of each host: of a parcel, an expert, a pair."""
    busy_s: Sequence[float]

    def slots_of(self, expert: int) -> list[int]:
        """The first on each live host."""
        host_to_slot: dict[int, int] = {}
        for slot, held in enumerate(self.held):
            if held == expert and self.is_live[self.slot_to_host[slot]]:
                host_to_slot.setdefault(self.slot_to_host[slot], slot)
        return sorted(host_to_slot.values())

    def done_s(self, shares: Shares) -> dict[int, float]:
        """When each host that has pairs is done."""
        seconds: dict[int, float] = {}
        for slot, num_pairs in shares.items():
            host = self.slot_to_host[slot]
            fixed, per_expert, per_pair = self.costs[host]
            seconds.setdefault(host, self.busy_s[host] + fixed)
            seconds[host] += per_expert + per_pair * num_pairs
        return seconds

    def slowest_s(self, shares: Shares) -> float:
        """Of the hosts that have pairs."""
        return max(self.done_s(shares).values(), default=0.0)


def count(layer: Layer, experts: Sequence[int]) -> tuple[Shares, dict[int, int]]:
    """What is settled, as there is one copy only; and pairs of the experts with several,
    as they appear."""
    shares: Shares = {}
    movable: dict[int, int] = {}
    for expert, num_pairs in Counter(experts).items():
        slots = layer.slots_of(expert)
        if len(slots) == 1:
            shares[slots[0]] = num_pairs
        elif slots:
            movable[expert] = num_pairs
    return shares, movable


def static(layer: Layer, experts: Sequence[int]) -> Shares:
    """The first copy of each."""
    shares, movable = count(layer, experts)
    return shares | {layer.slots_of(e)[0]: n for e, n in movable.items()}


def least_loaded(layer: Layer, experts: Sequence[int]) -> Shares:
    """In the order of their appearance, to the host with the least to do."""
    shares, movable = count(layer, experts)
    for expert, num_pairs in movable.items():
        done_s = dict(enumerate(layer.busy_s)) | layer.done_s(shares)
        slot = min(layer.slots_of(expert), key=lambda s: done_s[layer.slot_to_host[s]])
        shares[slot] = num_pairs
    return shares


def token_balance(layer: Layer, experts: Sequence[int]) -> Shares:
    """Each pair to the host with the fewest."""
    shares, movable = count(layer, experts)
    num_pairs = Counter[int]()
    for slot, share in shares.items():
        num_pairs[layer.slot_to_host[slot]] += share
    for expert, share in movable.items():
        for _ in range(share):
            slot = min(layer.slots_of(expert), key=lambda s: num_pairs[layer.slot_to_host[s]])
            num_pairs[layer.slot_to_host[slot]] += 1
            shares[slot] = shares.get(slot, 0) + 1
    return shares


def longest_first(layer: Layer, experts: Sequence[int]) -> Shares:
    """Whole, most pairs first, to where they are done first."""
    shares, movable = count(layer, experts)
    for expert, num_pairs in sorted(movable.items(), key=lambda item: -item[1]):
        tried = [shares | {slot: num_pairs} for slot in layer.slots_of(expert)]
        slots = layer.slots_of(expert)
        done_s = [
            layer.done_s(shares | {slot: num_pairs})[layer.slot_to_host[slot]] for slot in slots
        ]
        shares = tried[done_s.index(min(done_s))]
    return shares


def every_shares(layer: Layer, experts: Sequence[int]) -> Iterator[Shares]:
    """All there are."""
    shares, movable = count(layer, experts)
    choices = [list(splits(n, layer.slots_of(e))) for e, n in movable.items()]
    for choice in product(*choices):
        found = dict(shares)
        for part in choice:
            found |= part
        yield found


def splits(num_pairs: int, slots: Sequence[int]) -> Iterator[Shares]:
    """All ways to share out so many pairs."""
    if len(slots) == 1:
        yield {slots[0]: num_pairs} if num_pairs else {}
        return
    for first in range(num_pairs + 1):
        for rest in splits(num_pairs - first, slots[1:]):
            yield ({slots[0]: first} if first else {}) | rest


def best_s(layer: Layer, experts: Sequence[int]) -> float:
    """The least that the slowest host can take."""
    return min(layer.slowest_s(shares) for shares in every_shares(layer, experts))


@dataclass(frozen=True)
class Parcel:
    """What a host is sent; see `router.dispatch.types.Parcel`."""

    rows: list[int]
    pairs: list[tuple[int, int, int]]
    """Slot counted through all hosts, token, pair: in this order."""


def parcels(slots: Sequence[Sequence[int]], slot_to_host: Sequence[int]) -> dict[int, Parcel]:
    """Of all hosts that have pairs; the slots are those of each token's pairs."""
    found: dict[int, Parcel] = {}
    for token, chosen in enumerate(slots):
        for k, slot in enumerate(chosen):
            if slot >= 0:
                parcel = found.setdefault(slot_to_host[slot], Parcel([], []))
                parcel.pairs.append((slot, token, token * len(chosen) + k))
    for parcel in found.values():
        parcel.pairs.sort()
        parcel.rows.extend(sorted({token for _, token, _ in parcel.pairs}))
    return found

"""From one expert map to another without losing an expert on the way.

A *move* gives a slot another expert (or empties it, which costs nothing); what was in the
slot is evicted before. A *wave* is moves that may run at the same time. While it runs, the
slots that it fills are empty in the map in force, and yet each expert that had a copy
before the wave has one: from there a move can fetch the weights.

What no host has any more comes first, the heaviest expert first, in waves of its own.

Where experts only change places, no move is legal: each would evict a last copy. Then an
expert is copied to a slot that is empty or whose expert has another copy, and that slot is
put right at the end. There is such a slot wherever there are more slots than experts.
Where there are as many of both, nothing can move, and everything stays where it is.

Worked example: hosts a: 0, 2 and b: 1, 2; experts 0 and 1 are to change places. Wave 1:
b takes 0 in place of its copy of 2. Wave 2: a takes 1 in place of 0. Wave 3: b takes 2 in
place of 1. (The slots of a host are interchangeable, so 0 stays where 2 was.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experts.placement.layout import aligned, with_held
from experts.types import EMPTY_SLOT, ExpertMap, HostId

Slots = NDArray[np.int16]


@dataclass(frozen=True)
class Move:
    """One slot of one layer gets another expert; EMPTY_SLOT only takes out what is there."""

    host: HostId
    layer: int
    slot: int
    expert: int


@dataclass(frozen=True, eq=False)
class Wave:
    """Moves, the map while they run and the one once all are done: one version further
    each."""

    moves: tuple[Move, ...]
    during: ExpertMap
    after: ExpertMap


def migrate(
    current: ExpertMap,
    target: ExpertMap,
    weights: NDArray[np.float64],
    max_moves_per_host: int,
) -> tuple[Wave, ...]:
    """The waves that lead from `current` to `target`, a covering map of the same hosts.

    The last one ends with each host holding what it holds in `target`, in some order,
    unless there are no more slots than experts. `weights`, [num_layers, num_experts]: whose
    moves come first among those that may run together. A host fills at most
    `max_moves_per_host` slots in a wave.
    """
    assert current.hosts == target.hosts
    assert target.is_covering
    assert max_moves_per_host > 0
    way = _Way(current, target, weights, max_moves_per_host)
    return tuple(way.waves())


@dataclass
class _Layer:
    """Where a layer is, and where it goes."""

    held: Slots  # [num_slots]
    goal: Slots  # [num_slots]
    num_experts: int
    slot_to_host: NDArray[np.int32]  # [num_slots]
    host_to_first_slot: NDArray[np.int32]
    parked: set[int] = field(default_factory=set)
    """Slots that hold an expert for a while only, so that others can change places."""

    def counts(self) -> NDArray[np.intp]:
        """Copies of each expert. Shape: [num_experts]."""
        return np.bincount(self.held[self.held != EMPTY_SLOT], minlength=self.num_experts)

    def next_moves(self) -> list[tuple[int, int]]:
        """Slots and their new experts, all of which or any part may run together."""
        self.parked = {slot for slot in self.parked if self.held[slot] != self.goal[slot]}
        pending = [int(slot) for slot in np.flatnonzero(self.held != self.goal)]
        moves = self._legal(slot for slot in pending if slot not in self.parked)
        moves = moves or self._legal(self.parked)
        if pending and not moves:
            moves = self._detour(pending)
        return moves

    def _legal(self, slots: Iterable[int]) -> list[tuple[int, int]]:
        """Those that leave each expert a copy. Slots that are filled have precedence
        over those that are only emptied."""
        left, moves = self.counts(), []
        for slot in sorted(slots, key=lambda slot: bool(self.goal[slot] == EMPTY_SLOT)):
            old = self.held[slot]
            if old == EMPTY_SLOT or left[old] > 1:
                moves.append((slot, int(self.goal[slot])))
                if old != EMPTY_SLOT:
                    left[old] -= 1
        return moves

    def _detour(self, pending: list[int]) -> list[tuple[int, int]]:
        """One of the experts in the way, copied to where it does no harm."""
        counts = self.counts()
        spare = [
            int(slot)
            for slot, old in enumerate(self.held)
            if old == EMPTY_SLOT or counts[old] > 1
        ]
        in_the_way = [int(self.held[slot]) for slot in pending]
        if not spare:
            self.goal = self.held.copy()
            return []
        for expert in in_the_way:
            for slot in spare:
                if self._is_bound_for(expert, slot):
                    self._exchange_goals(expert, slot)
                    return [(slot, expert)]
        slot = min(spare, key=lambda slot: bool(self.held[slot] != EMPTY_SLOT))
        self.parked.add(slot)
        return [(slot, in_the_way[0])]

    def _is_bound_for(self, expert: int, slot: int) -> bool:
        """Whether the expert is to come to the slot's host."""
        same_host = self.slot_to_host == self.slot_to_host[slot]
        return bool((same_host & (self.goal == expert) & (self.held != expert)).any())

    def _exchange_goals(self, expert: int, slot: int) -> None:
        """Let the expert stay in this slot, and the slot's own go to where it was to be."""
        same_host = self.slot_to_host == self.slot_to_host[slot]
        there = np.flatnonzero(same_host & (self.goal == expert) & (self.held != expert))[0]
        self.goal[[slot, there]] = self.goal[[there, slot]]


class _Way:
    """All layers together."""

    def __init__(
        self,
        current: ExpertMap,
        target: ExpertMap,
        weights: NDArray[np.float64],
        max_moves_per_host: int,
    ) -> None:
        self._map = current
        self._weights = weights
        self._max_moves_per_host = max_moves_per_host
        first = current.host_to_first_slot
        rows = zip(current.physical_to_logical, target.physical_to_logical, strict=True)
        self._layers = [
            _Layer(
                held.copy(),
                aligned(held, goal, first),
                current.num_experts,
                current.slot_to_host,
                first,
            )
            for held, goal in rows
        ]

    def waves(self) -> Iterator[Wave]:
        """Until nothing is left to do."""
        while moves := self._chosen(self._possible()):
            yield self._wave(moves)

    def _possible(self) -> list[Move]:
        """Of all layers; if some fill in for lost experts, only these. First comes what
        is missing, then what is heaviest, last what only empties a slot."""
        found: list[tuple[bool, Move]] = []
        for number, layer in enumerate(self._layers):
            moves = layer.next_moves()
            counts = layer.counts()
            found += [
                (
                    expert != EMPTY_SLOT and bool(counts[expert] == 0),
                    Move(self._host_of(slot), number, slot, expert),
                )
                for slot, expert in moves
            ]
        found.sort(key=lambda item: self._precedence(item[1]), reverse=True)
        repairs = [move for is_lost, move in found if is_lost]
        return repairs or [move for _, move in found]

    def _precedence(self, move: Move) -> float:
        if move.expert == EMPTY_SLOT:
            return -1.0
        return float(self._weights[move.layer, move.expert])

    def _chosen(self, moves: list[Move]) -> list[Move]:
        """As many as the hosts may take at the same time."""
        host_to_count: dict[HostId, int] = {}
        chosen = []
        for move in moves:
            count = host_to_count.get(move.host, 0)
            if move.expert == EMPTY_SLOT or count < self._max_moves_per_host:
                host_to_count[move.host] = count + (move.expert != EMPTY_SLOT)
                chosen.append(move)
        return chosen

    def _wave(self, moves: list[Move]) -> Wave:
        held = self._map.physical_to_logical.copy()
        for move in moves:
            held[move.layer, move.slot] = EMPTY_SLOT
        during = with_held(self._map, held)
        held = held.copy()
        for move in moves:
            held[move.layer, move.slot] = move.expert
            self._layers[move.layer].held[move.slot] = move.expert
        self._map = with_held(during, held)
        return Wave(tuple(moves), during, self._map)

    def _host_of(self, slot: int) -> HostId:
        return self._map.hosts[int(self._map.slot_to_host[slot])]

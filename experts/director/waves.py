"""A decision that is carried out: wave by wave, each host's moves as one order.

The next wave waits until all orders of this one have ended. Where a move fails, or a host
goes, the rest of the waves is left, since it was planned with what is not there: whoever
runs them decides anew, by what the hosts then say that they hold.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experts.director.types import HostOrder, Rebalance
from experts.placement.migration import Wave
from experts.placement.rebalance import Decision
from experts.transport.control import Order, Ordered, Outcome
from experts.types import HostId


class WaveRun:
    """The waves of one decision. Times are the caller's."""

    def __init__(self, decision: Decision, numbers: Iterator[int], now_s: float) -> None:
        self._waves = list(decision.waves)
        self._numbers = numbers
        self._host_to_order: dict[HostId, Order] = {}
        self._given_s = now_s
        self.has_failed = False
        """Whether a host has not done what it was ordered."""
        self.rebalance = Rebalance(
            reason=decision.reason,
            gain=decision.gain,
            num_moves=sum(len(wave.moves) for wave in decision.waves),
            num_waves=len(decision.waves),
            begun_s=now_s,
        )

    @property
    def hosts(self) -> frozenset[HostId]:
        """Whose orders have not ended."""
        return frozenset(self._host_to_order)

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way, and nothing comes any more."""
        return not self._host_to_order and not self._waves

    @property
    def trouble(self) -> str:
        """Why the rest of the waves was left; empty while all goes well."""
        return self.rebalance.trouble

    def next_orders(self, now_s: float) -> list[HostOrder]:
        """Those of the next wave; none while orders are under way, or where it is over."""
        if self._host_to_order or not self._waves:
            return []
        orders = [
            HostOrder(host, Order(next(self._numbers), moves))
            for host, moves in _moves_by_host(self._waves.pop(0)).items()
        ]
        self._host_to_order = {each.host: each.order for each in orders}
        self._given_s = now_s
        return orders

    def ended(self, host: HostId, ordered: Ordered, now_s: float) -> bool:
        """A host has answered; False where it was not asked that."""
        order = self._host_to_order.get(host)
        if order is None or order.number != ordered.number:
            return False
        del self._host_to_order[host]
        if ordered.outcomes != (Outcome.DONE,) * len(order.moves):
            self._fail(f"{host} could not do {_num_bad(ordered)} of {len(order.moves)} moves")
        self._note_end(now_s)
        return True

    def lost(self, host: HostId, now_s: float) -> None:
        """The host is gone; its order has ended, and no other wave begins."""
        self._host_to_order.pop(host, None)
        self.leave(f"{host} is gone", now_s)

    def give_up_late(self, timeout_s: float, now_s: float) -> frozenset[HostId]:
        """The hosts whose orders take longer than that; they are waited for no more."""
        if now_s - self._given_s < timeout_s or not self._host_to_order:
            return frozenset()
        late = self.hosts
        self._host_to_order.clear()
        self._fail(f"no answer from {', '.join(sorted(late))} within {timeout_s:g} s")
        self._note_end(now_s)
        return late

    def leave(self, trouble: str, now_s: float) -> None:
        """Begin no other wave, for this reason."""
        self.rebalance = replace(self.rebalance, trouble=self.trouble or trouble)
        self._waves.clear()
        self._note_end(now_s)

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself."""
        assert self.is_over == (self.rebalance.ended_s is not None)
        assert not (self.trouble and self._waves)
        assert self.rebalance.num_waves_done <= self.rebalance.num_waves
        for order in self._host_to_order.values():
            assert len(order.moves)

    def _fail(self, trouble: str) -> None:
        self.has_failed = True
        self.rebalance = replace(self.rebalance, trouble=self.trouble or trouble)
        self._waves.clear()

    def _note_end(self, now_s: float) -> None:
        if self._host_to_order:
            return
        if not self.trouble:
            done = self.rebalance.num_waves_done + 1
            self.rebalance = replace(self.rebalance, num_waves_done=done)
        if self.is_over:
            self.rebalance = replace(self.rebalance, ended_s=now_s)


def _moves_by_host(wave: Wave) -> dict[HostId, NDArray[np.int32]]:
    """Layer, the host's own slot, expert. Shape of each: [num_moves, 3]."""
    firsts = dict(
        zip(wave.after.hosts, map(int, wave.after.host_to_first_slot[:-1]), strict=True)
    )
    by_host = itertools.groupby(
        sorted(wave.moves, key=lambda move: move.host), key=lambda move: move.host
    )
    return {
        host: np.array(
            [(move.layer, move.slot - firsts[host], move.expert) for move in moves], np.int32
        )
        for host, moves in by_host
    }


def _num_bad(ordered: Ordered) -> int:
    return sum(outcome != Outcome.DONE for outcome in ordered.outcomes)

"""Orders of a director, from their coming to their end, and who must have heard of what.

| phase    | the order's slots                      | goes on when                           |
|----------|----------------------------------------|----------------------------------------|
| waiting  | announced as empty, hold the old       | every engine that may use them by an   |
|          | experts still                          | older announcement has said `DONE`, is |
|          |                                        | gone, or had `ack_timeout_s` for it    |
| filling  | empty, being overwritten               | the last of its moves has ended        |
| ended    | announced as they are                  |                                        |

The wait makes it rare that a request finds its slot empty; that none is computed wrongly
is `SlotBook`'s. Orders run side by side; none changes a slot that another one has.

Worked example: slots [4, 7], one engine, and the order to put expert 5 into slot 0. The
announcement is [E, 7]. The engine has two requests under way that were planned by [4, 7];
when both are answered it says `DONE`. Expert 5 is read, [5, 7] is announced.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, NewType, TypeVar

import numpy as np
from numpy.typing import NDArray

from experts.host.slot_book import Moves, SlotBook
from experts.transport.control import Order, Ordered, Outcome
from experts.types import EMPTY_SLOT

ACK_TIMEOUT_S = 2.0

Peer = TypeVar("Peer")
"""An engine or a director: its link, by identity."""

FillId = NewType("FillId", int)


@dataclass(frozen=True, eq=False)
class Fill:
    """Moves to be made now, of slots that nobody uses."""

    id: FillId
    moves: Moves


@dataclass(eq=False)
class _Open(Generic[Peer]):
    """An order that has not ended."""

    asker: Peer | None
    number: int
    outcomes: NDArray[np.uint8]  # [num_moves]
    is_work: NDArray[np.bool_]  # [num_moves]; of the others the outcome is known
    moves: Moves  # those that are work
    deadline_s: float
    awaited: dict[Peer, int] = field(default_factory=dict)
    """The announcement that each engine has to acknowledge."""
    is_filling: bool = False


class OrderBook(Generic[Peer]):
    """The orders of one host, and its followers. Announces by the slot book."""

    def __init__(self, book: SlotBook, ack_timeout_s: float = ACK_TIMEOUT_S) -> None:
        self._book = book
        self._ack_timeout_s = ack_timeout_s
        self._followers: dict[Peer, None] = {}
        self._open: dict[FillId, _Open[Peer]] = {}
        self._is_taken = np.zeros(book.table.held.shape, bool)
        self._ids = count()

    @property
    def followers(self) -> Sequence[Peer]:
        """Who is to be told each announcement."""
        return tuple(self._followers)

    @property
    def num_open(self) -> int:
        """Orders that have not ended."""
        return len(self._open)

    def follow(self, peer: Peer) -> None:
        """An engine is to be told of announcements from here on; it has the latest."""
        self._followers[peer] = None

    def acknowledged(self, peer: Peer, version: int) -> None:
        """No request of the engine is under way by an announcement before this one."""
        for order in self._open.values():
            if order.awaited.get(peer, version + 1) <= version:
                del order.awaited[peer]

    def forget(self, peer: Peer) -> None:
        """The link is gone. Orders that came by it go on, and end untold."""
        self._followers.pop(peer, None)
        for order in self._open.values():
            order.awaited.pop(peer, None)
            if order.asker == peer:
                order.asker = None

    def begin(self, asker: Peer, order: Order, now_s: float) -> bool:
        """Withdraw the order's slots; whether there is a new announcement."""
        outcomes, is_work = self._sorted_out(order.moves)
        moves = order.moves[is_work]
        self._is_taken[moves[:, 0], moves[:, 1]] = True
        is_news = self._book.withdraw(moves)
        version = self._book.table.version
        self._open[FillId(next(self._ids))] = _Open(
            asker,
            order.number,
            outcomes,
            is_work,
            moves,
            now_s + self._ack_timeout_s,
            dict.fromkeys(self._followers, version) if is_news else {},
        )
        return is_news

    def due_s(self) -> float | None:
        """When `fills` is to be called at the latest; None where nothing waits."""
        waiting = [order.deadline_s for order in self._open.values() if not order.is_filling]
        return min(waiting, default=None)

    def fills(self, now_s: float) -> Iterable[Fill]:
        """Those that may begin, each once."""
        for number, order in self._open.items():
            if not order.is_filling and (not order.awaited or now_s >= order.deadline_s):
                order.is_filling = True
                yield Fill(number, order.moves)

    def filled(
        self, number: FillId, outcomes: Sequence[Outcome]
    ) -> tuple[Peer | None, Ordered, bool]:
        """The moves of a fill have ended so: who is to be told what, and whether there is
        a new announcement. None: who gave the order is gone."""
        order = self._open.pop(number)
        assert order.is_filling
        assert len(outcomes) == len(order.moves)
        found = np.array(outcomes, np.uint8)
        self._is_taken[order.moves[:, 0], order.moves[:, 1]] = False
        is_news = self._book.fill(order.moves[found == Outcome.DONE])
        order.outcomes[order.is_work] = found
        ended = Ordered(order.number, tuple(Outcome(number) for number in order.outcomes))
        return order.asker, ended, is_news

    def check_invariants(self) -> None:
        """Raises AssertionError where slots and orders contradict each other."""
        self._book.check_invariants()
        taken = np.zeros_like(self._is_taken)
        for order in self._open.values():
            places = order.moves[:, 0], order.moves[:, 1]
            assert not taken[places].any()
            taken[places] = True
            assert len(order.outcomes) == len(order.is_work)
            assert order.is_work.sum() == len(order.moves)
            assert order.awaited.keys() <= self._followers.keys()
        assert np.array_equal(taken, self._is_taken)
        assert (self._book.table.held[taken] == EMPTY_SLOT).all()

    def _sorted_out(self, moves: Moves) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The outcomes of moves that need no work, and which do. Shapes: [num_moves]."""
        outcomes = np.full(len(moves), Outcome.DONE, np.uint8)
        is_work = np.zeros(len(moves), bool)
        held, seen = self._book.table.held, set()
        for number, (layer, slot, expert) in enumerate(moves.tolist()):
            is_known = 0 <= layer < held.shape[0] and 0 <= slot < held.shape[1]
            is_known = is_known and EMPTY_SLOT <= expert < self._book.num_experts
            if not is_known or self._is_taken[layer, slot] or (layer, slot) in seen:
                outcomes[number] = Outcome.REFUSED
                continue
            seen.add((layer, slot))
            is_work[number] = held[layer, slot] != expert
        return outcomes, is_work

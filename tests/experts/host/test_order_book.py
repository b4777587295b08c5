"""Orders wait for those who must have heard, and no two have one slot."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from experts.host.order_book import Fill, OrderBook
from experts.host.slot_book import SlotBook
from experts.transport.control import Order, Ordered, Outcome
from experts.types import EMPTY_SLOT, ModelShape

SHAPE = ModelShape(num_layers=1, num_experts=3, top_k=1, hidden_size=1, intermediate_size=1)
NUM_SLOTS = 3
E = EMPTY_SLOT
DONE, FAILED, REFUSED = Outcome


def order(number: int, *moves: tuple[int, int, int]) -> Order:
    return Order(number, np.array(moves, np.int32).reshape(len(moves), 3))


def holding(*experts: int) -> tuple[OrderBook[str], SlotBook]:
    book = SlotBook(SHAPE, len(experts))
    moves = [(0, slot, expert) for slot, expert in enumerate(experts)]
    book.fill(np.array(moves, np.int32))
    return OrderBook(book, ack_timeout_s=2.0), book


def begun(orders: OrderBook[str], now_s: float = 0.0) -> list[list[list[int]]]:
    return [fill.moves.tolist() for fill in orders.fills(now_s)]


def test_an_order_waits_until_each_follower_has_acknowledged() -> None:
    orders, book = holding(0, 1)
    for engine in ("a", "b"):
        orders.follow(engine)
    assert orders.begin("director", order(7, (0, 0, 2)), now_s=0.0)
    assert (book.table.version, book.table.held.tolist()) == (3, [[E, 1]])
    orders.acknowledged("a", 2)
    orders.acknowledged("b", 3)
    assert begun(orders) == []
    orders.acknowledged("a", 3)
    (fill,) = orders.fills(0.0)
    assert fill.moves.tolist() == [[0, 0, 2]]
    assert list(orders.fills(99.0)) == []
    assert orders.filled(fill.id, [DONE]) == ("director", Ordered(7, (DONE,)), True)
    assert (book.table.version, book.table.held.tolist()) == (4, [[2, 1]])
    assert orders.num_open == 0
    orders.check_invariants()


def test_a_follower_that_is_gone_is_not_waited_for() -> None:
    orders, _ = holding(0)
    orders.follow("a")
    orders.begin("director", order(1, (0, 0, 2)), now_s=0.0)
    assert begun(orders) == []
    orders.forget("a")
    orders.check_invariants()
    assert begun(orders) == [[[0, 0, 2]]]


def test_a_follower_that_never_acknowledges_is_waited_for_so_long() -> None:
    orders, _ = holding(0)
    orders.follow("a")
    orders.begin("director", order(1, (0, 0, 2)), now_s=5.0)
    assert orders.due_s() == 7.0
    assert begun(orders, 6.9) == []
    assert begun(orders, 7.0) == [[[0, 0, 2]]]
    assert orders.due_s() is None


def test_an_order_whose_giver_is_gone_goes_on_and_ends_untold() -> None:
    orders, book = holding(0)
    orders.begin("director", order(1, (0, 0, 2)), now_s=0.0)
    orders.forget("director")
    (fill,) = orders.fills(0.0)
    assert orders.filled(fill.id, [DONE]) == (None, Ordered(1, (DONE,)), True)
    assert book.table.held.tolist() == [[2]]


def test_one_that_follows_later_is_not_waited_for() -> None:
    orders, _ = holding(0)
    orders.begin("director", order(1, (0, 0, 2)), now_s=0.0)
    orders.follow("late")
    orders.check_invariants()
    assert begun(orders) == [[[0, 0, 2]]]


def test_empty_slots_are_filled_without_waiting() -> None:
    orders, book = holding(E, 1)
    orders.follow("a")
    assert not orders.begin("director", order(1, (0, 0, 2)), now_s=0.0)
    assert book.table.held.tolist() == [[E, 1]]
    assert begun(orders) == [[[0, 0, 2]]]


def test_a_slot_is_emptied_by_an_order() -> None:
    orders, book = holding(0, 1)
    assert orders.begin("director", order(1, (0, 1, E)), now_s=0.0)
    (fill,) = orders.fills(0.0)
    assert orders.filled(fill.id, [DONE]) == ("director", Ordered(1, (DONE,)), False)
    assert book.table.held.tolist() == [[0, E]]


def test_what_failed_leaves_its_slot_empty() -> None:
    orders, book = holding(0, 1)
    orders.begin("director", order(1, (0, 0, 2), (0, 1, 0)), now_s=0.0)
    (fill,) = orders.fills(0.0)
    assert orders.filled(fill.id, [FAILED, DONE])[1] == Ordered(1, (FAILED, DONE))
    assert book.table.held.tolist() == [[E, 0]]
    orders.check_invariants()


def test_moves_that_cannot_be_are_refused_and_the_others_made() -> None:
    orders, book = holding(0, 1, 2)
    orders.begin("a", order(1, (0, 0, 2)), now_s=0.0)
    wrong = [(1, 0, 0), (-1, 0, 0), (0, 3, 0), (0, -1, 0), (0, 1, 3), (0, 1, -2)]
    taken, twice, as_it_is = (0, 0, 1), (0, 1, 0), (0, 2, 2)
    orders.begin("b", order(2, *wrong, taken, (0, 1, 2), twice, as_it_is), now_s=0.0)
    orders.check_invariants()
    first, second = orders.fills(0.0)
    assert second.moves.tolist() == [[0, 1, 2]]
    expected = (REFUSED,) * 7 + (DONE, REFUSED, DONE)
    assert orders.filled(second.id, [DONE])[:2] == ("b", Ordered(2, expected))
    assert orders.filled(first.id, [DONE])[:2] == ("a", Ordered(1, (DONE,)))
    assert book.table.held.tolist() == [[2, 2, 2]]


def test_an_order_of_nothing_ends() -> None:
    orders, _ = holding(0)
    assert not orders.begin("a", order(3), now_s=0.0)
    (fill,) = orders.fills(0.0)
    assert orders.filled(fill.id, []) == ("a", Ordered(3, ()), False)


class OrdersSideBySide(RuleBasedStateMachine):
    """Engines that plan by what they were told, acknowledge or not, come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.book = SlotBook(SHAPE, NUM_SLOTS)
        self.orders = OrderBook[str](self.book, ack_timeout_s=2.0)
        self.now_s = 0.0
        self.weights = np.full((1, NUM_SLOTS), E, np.int16)
        """What the slots really have."""
        self.filling: list[Fill] = []
        self.history = [self.book.table.held]
        self.num_orders = 0

    def announced(self, is_news: bool) -> None:
        if is_news:
            self.history.append(self.book.table.held)

    @rule(engine=st.sampled_from("ab"))
    def an_engine_follows(self, engine: str) -> None:
        self.orders.follow(engine)

    @rule(engine=st.sampled_from("ab"))
    def an_engine_is_lost(self, engine: str) -> None:
        self.orders.forget(engine)

    @rule(engine=st.sampled_from("ab"), late=st.integers(0, 2))
    def an_engine_acknowledges(self, engine: str, late: int) -> None:
        self.orders.acknowledged(engine, self.book.table.version - late)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(
        moves=st.lists(
            st.tuples(st.just(0), st.integers(0, NUM_SLOTS), st.integers(E, 3)), max_size=3
        )
    )
    def an_order_comes(self, moves: list[tuple[int, int, int]]) -> None:
        self.num_orders += 1
        self.announced(self.orders.begin("d", order(self.num_orders, *moves), self.now_s))

    @rule()
    def fills_begin(self) -> None:
        for fill in self.orders.fills(self.now_s):
            self.filling.append(fill)
            for layer, slot, _ in fill.moves:
                self.weights[layer, slot] = E

    @precondition(lambda self: self.filling)
    @rule(data=st.data())
    def a_fill_ends(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.filling) - 1))
        fill = self.filling.pop(number)
        outcomes = [data.draw(st.sampled_from([DONE, FAILED])) for _ in fill.moves]
        for (layer, slot, expert), outcome in zip(fill.moves, outcomes, strict=True):
            self.weights[layer, slot] = expert if outcome == DONE else E
        _, _, is_news = self.orders.filled(fill.id, outcomes)
        self.announced(is_news)

    @invariant()
    def no_request_gets_the_result_of_another_expert(self) -> None:
        self.orders.check_invariants()
        held: NDArray[np.int16] = self.book.table.held
        assert ((held == E) | (held == self.weights)).all()
        for version, told in enumerate(self.history, 1):
            for slot in range(NUM_SLOTS):
                found = self.book.experts_of(0, np.array([slot], np.int32), version)
                if found is not None:
                    assert found.tolist() == [self.weights[0, slot]] == [told[0, slot]]

    def teardown(self) -> None:
        """Every order ends."""
        self.now_s += 2.0
        for fill in (*self.filling, *self.orders.fills(self.now_s)):
            self.orders.filled(fill.id, [FAILED] * len(fill.moves))
        assert self.orders.num_open == 0
        self.orders.check_invariants()


TestOrdersSideBySide = OrdersSideBySide.TestCase

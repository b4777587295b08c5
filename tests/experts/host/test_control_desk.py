"""What a host says to engines and directors, frame by frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from experts.host.control_desk import ControlDesk
from experts.host.link_keeper import LinkKeeper
from experts.host.order_book import Fill, FillId
from experts.host.slot_book import SlotBook
from experts.host_report import HostReport
from experts.tier_view import SlotTable
from experts.transport import control
from experts.transport.control import Order, Ordered, Outcome
from experts.transport.errors import BadFrameError
from experts.transport.link import Link
from experts.types import EMPTY_SLOT, HostId, ModelShape
from tests.experts.host.fake_links import FakeLink

SHAPE = ModelShape(num_layers=1, num_experts=3, top_k=1, hidden_size=1, intermediate_size=1)
E = EMPTY_SLOT
DONE, FAILED, REFUSED = Outcome


@dataclass
class Fills:
    """A `SlotFiller` whose fills end when the test says so."""

    begun: list[Fill] = field(default_factory=list)
    over: list[tuple[FillId, Sequence[Outcome]]] = field(default_factory=list)

    def begin(self, fill: Fill) -> None:
        self.begun.append(fill)

    def ended(self) -> Iterable[tuple[FillId, Sequence[Outcome]]]:
        over, self.over = self.over, []
        return over

    def end(self, *outcomes: Outcome) -> None:
        self.over.append((self.begun.pop(0).id, outcomes))


class Desk:
    """A desk with all that it talks to. The slots hold experts 0 and 1."""

    def __init__(self) -> None:
        self.book = SlotBook(SHAPE, 2)
        self.book.fill(np.array([(0, 0, 0), (0, 1, 1)], np.int32))
        self.fills = Fills()
        self.keeper = LinkKeeper(self.gone)
        self.desk = ControlDesk(self.book, self.keeper, self.fills, self.report)

    def gone(self, link: Link) -> None:
        self.desk.gone(link)

    def report(self, link: Link) -> HostReport:
        counts = np.zeros((1, 3), np.int64)
        numbers = (1e-5, 1e-6, 0.0, 0.5, self.desk.num_followers, 7)
        table = self.book.table
        return HostReport(HostId("a"), table, counts, counts, *numbers, is_leaving=False)

    def take(self, link: FakeLink, frame: bytes, now_s: float = 0.0) -> None:
        self.desk.take(link, control.kind_of(memoryview(frame)), memoryview(frame), now_s)
        self.desk.check_invariants()

    def order(self, link: FakeLink, number: int, *moves: tuple[int, int, int]) -> None:
        self.take(link, control.order_frame(Order(number, np.array(moves, np.int32))))

    def go_on(self, now_s: float = 0.0) -> None:
        self.desk.go_on(now_s)
        self.desk.check_invariants()


def tables(link: FakeLink) -> list[tuple[int, list[list[int]]]]:
    found: list[SlotTable] = [control.read_table(frame) for frame in link.sent()]
    return [(table.version, table.held.tolist()) for table in found]


def test_an_order_is_told_waited_for_made_told_and_answered() -> None:
    own, engine, director = Desk(), FakeLink(), FakeLink("director")
    own.take(engine, control.follow_frame())
    assert tables(engine) == [(2, [[0, 1]])]
    own.order(director, 4, (0, 0, 2))
    assert tables(engine) == [(3, [[E, 1]])]
    own.go_on()
    assert own.fills.begun == []
    assert own.desk.due_s() == 2.0
    own.take(engine, control.done_frame(3))
    own.go_on()
    assert [fill.moves.tolist() for fill in own.fills.begun] == [[[0, 0, 2]]]
    own.go_on()
    assert (tables(engine), director.sent()) == ([], [])
    own.fills.end(DONE)
    own.go_on()
    assert tables(engine) == [(4, [[2, 1]])]
    (answer,) = director.sent()
    assert control.read_ordered(answer) == Ordered(4, (DONE,))
    assert own.desk.num_orders == 0


def test_a_follower_that_cannot_be_told_is_not_waited_for() -> None:
    own, engine, director = Desk(), FakeLink(), FakeLink("director")
    own.take(engine, control.follow_frame())
    engine.has_room = False
    own.order(director, 1, (0, 0, 2))
    assert engine.is_closed
    assert own.desk.num_followers == 0
    own.go_on()
    assert len(own.fills.begun) == 1


def test_a_director_that_is_gone_is_not_answered() -> None:
    own, director = Desk(), FakeLink("director")
    own.order(director, 1, (0, 0, 2))
    own.go_on()
    own.keeper.drop(director, "gone")
    own.keeper.end_turn()
    own.fills.end(DONE)
    own.go_on()
    assert own.book.table.held.tolist() == [[2, 1]]


def test_a_slot_that_could_not_be_filled_is_not_announced_again() -> None:
    own, engine, director = Desk(), FakeLink(), FakeLink("director")
    own.order(director, 1, (0, 0, 2))
    own.take(engine, control.follow_frame())
    assert tables(engine) == [(3, [[E, 1]])]
    own.go_on()
    own.fills.end(FAILED)
    own.go_on()
    assert tables(engine) == []
    (answer,) = director.sent()
    assert control.read_ordered(answer) == Ordered(1, (FAILED,))


def test_who_asks_gets_the_report() -> None:
    own, director = Desk(), FakeLink("director")
    own.take(FakeLink(), control.follow_frame())
    own.take(director, control.ask_frame())
    (answer,) = director.sent()
    report = control.read_report(answer)
    assert (report.host, report.num_engines, report.num_requests) == ("a", 1, 7)
    assert report.table.held.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "frame",
    [
        control.table_frame(SlotTable(1, np.zeros((1, 1), np.int16))),
        control.ordered_frame(Ordered(1, ())),
        control.done_frame(1)[:-1],
        control.order_frame(Order(1, np.zeros((1, 3), np.int32)))[:-1],
    ],
)
def test_what_no_host_is_sent_is_a_bad_frame(frame: bytes) -> None:
    own = Desk()
    with pytest.raises(BadFrameError):
        own.take(FakeLink(), frame)
    own.desk.check_invariants()

"""What an engine does where hosts do not answer, or links have no room."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deployments.drafts.in_engine.tier_source import TierSource
from deployments.drafts.messages import Answer, AnswerRow, answer_bytes, read_tell
from experts.directory import DirectoryFile, HostCard, write_directory
from experts.transport.errors import PeerLostError
from experts.transport.link import Link
from experts.types import HostId
from router.speculation.confidence import NUM_KINDS
from router.speculation.draft_source import Terms, ToldRow
from router.speculation.types import Draft
from tests.experts.host.fake_links import FakeLink

TERMS = Terms(np.ones(NUM_KINDS), 0.5)
CONTEXT_TOKENS = 64


class FakeHub:
    """Gives the links that it is told to."""

    links = ()

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.link: FakeLink | None = None

    def listen(self, address: str) -> str:
        raise NotImplementedError

    def dial(self, address: str) -> Link:
        self.dialled.append(address)
        if self.link is None:
            raise PeerLostError("nobody answers")
        return self.link

    def wait(self, timeout_s: float) -> list[Link]:
        raise AssertionError("the engine waits")

    def wake(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


class Clock:
    """Seconds."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Engine:
    """A source, and the other end of its link."""

    def __init__(self, folder: Path, name: str = "engine", num_hosts: int = 1) -> None:
        self.directory = folder / "hosts"
        self.name_hosts(*(f"host-{number}" for number in range(num_hosts)))
        self.hub, self.clock, self.link = FakeHub(), Clock(), FakeLink("host-0")
        self.source = TierSource(
            name, self.hub, DirectoryFile(self.directory), CONTEXT_TOKENS, self.clock
        )

    def name_hosts(self, *names: str) -> None:
        cards = [HostCard(HostId(name), (f"unix:///{name}",)) for name in names]
        write_directory(self.directory, cards)

    def tell(self, num_rows: int = 1, num_tokens: int = 1) -> None:
        token_ids = np.arange(num_tokens, dtype=np.int32)
        rows = [ToldRow(number, token_ids, 4) for number in range(num_rows)]
        self.source.tell(rows, TERMS)

    def told(self) -> list[int]:
        """How many tokens of each sequence the link has got."""
        (frame,) = self.link.sent()
        return [len(row.token_ids) for row in read_tell(frame).rows]

    def answer(self, *rows: AnswerRow, step: int) -> None:
        self.link.to_give.append(answer_bytes(Answer(step, 0.25, rows)))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """One that has a link."""
    found = Engine(tmp_path)
    found.hub.link = found.link
    return found


def test_what_does_not_fit_into_one_frame_is_told_in_the_next_steps(engine: Engine) -> None:
    num_told = []
    for step in range(3):
        engine.tell(num_rows=40, num_tokens=100 + step)
        num_told.append(engine.told())
        known = [AnswerRow(True, [7], [1])] * len(num_told[-1])
        engine.answer(*known, step=step + 1)
        assert list(engine.source.give(1.0)) == list(range(len(known)))
    assert num_told[0] == [CONTEXT_TOKENS] * len(num_told[0])
    assert 0 < len(num_told[0]) < 40
    assert num_told[1][: len(num_told[0])] == [1] * len(num_told[0])
    assert len(num_told[0]) < len(num_told[1]) < len(num_told[2])
    assert engine.source.is_linked


def test_a_link_without_room_is_told_nothing_and_stays(engine: Engine) -> None:
    engine.tell(num_tokens=2)
    assert engine.told() == [2]
    engine.link.has_room = False
    engine.tell(num_tokens=5)
    assert engine.source.give(1.0) == {}
    assert engine.source.is_linked
    engine.link.has_room = True
    engine.tell(num_tokens=6)
    assert engine.told() == [4]
    engine.answer(AnswerRow(True, [7], [1]), step=3)
    assert engine.source.give(1.0) == {0: Draft([7], [1])}


@pytest.mark.parametrize(
    "frame",
    [b"", b"\2\1", answer_bytes(Answer(1, 0.5, [AnswerRow(True, [7], [1])] * 2))],
    ids=["nothing", "a part", "of two rows"],
)
def test_a_host_that_answers_nonsense_is_left(engine: Engine, frame: bytes) -> None:
    engine.tell()
    engine.link.to_give.append(frame)
    assert engine.source.give(1.0) == {}
    assert not engine.source.is_linked
    assert engine.link.is_closed
    engine.tell()
    assert engine.source.give(1.0) == {}


def test_who_is_not_known_is_told_anew_however_late_that_is_heard(engine: Engine) -> None:
    unknown = AnswerRow(False, [], [])
    engine.tell(num_tokens=5)
    engine.told()
    engine.tell(num_tokens=6)
    assert engine.told() == [1]
    engine.answer(unknown, step=2)
    engine.tell(num_tokens=7)
    assert engine.told() == [7]
    # An answer to what was told before it was told anew says nothing of that.
    engine.tell(num_tokens=8)
    assert engine.told() == [1]
    engine.answer(AnswerRow(True, [7], [1]), step=3)
    engine.answer(AnswerRow(True, [7], [1]), step=4)
    assert engine.source.give(1.0) == {0: Draft([7], [1])}


def test_what_a_token_takes_is_heard_from_answers(engine: Engine) -> None:
    engine.tell()
    engine.answer(AnswerRow(True, [7], [1]), step=1)
    engine.source.give(1.0)
    assert engine.source.token_s == 0.25


def test_who_does_not_answer_is_dialled_ever_more_rarely(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for _ in range(600):
        engine.tell()
        engine.clock.now_s += 0.1
    assert 4 < len(engine.hub.dialled) < 12
    engine.hub.dialled.clear()
    engine.name_hosts("host-0", "host-1")
    engine.hub.link = engine.link
    for _ in range(11):
        engine.tell()
        engine.clock.now_s += 0.1
    assert len(engine.hub.dialled) == 1, "there is somebody new"
    assert engine.source.is_linked


def test_engines_are_spread_evenly_over_hosts(tmp_path: Path) -> None:
    dialled: Counter[str] = Counter()
    for number in range(150):
        engine = Engine(tmp_path, f"engine-{number}", num_hosts=3)
        engine.hub.link = engine.link
        engine.tell()
        dialled.update(engine.hub.dialled)
    assert sorted(dialled.values()) == pytest.approx([50] * 3, rel=0.3)

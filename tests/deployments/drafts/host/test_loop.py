"""A draft host's turns: what links bring, and what they get."""

from collections.abc import Sequence

import numpy as np

from deployments.drafts.host.desk import DeskSettings, DraftDesk
from deployments.drafts.host.loop import DraftLoop
from deployments.drafts.messages import Answer, Tell, TellRow, read_answer, tell_bytes
from deployments.drafts.vocabulary import SameVocabulary
from experts.transport.link import Link
from router.speculation.confidence import NUM_KINDS
from tests.deployments.drafts.host.fake_model import FakeModel
from tests.deployments.drafts.host.test_desk import expected
from tests.experts.host.fake_links import FakeLink


class FakeHub:
    """Links that the test has made; keeps how long it would have waited."""

    def __init__(self, *links: FakeLink) -> None:
        self.all = links
        self.waits_s: list[float] = []

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(link for link in self.all if not link.is_closed)

    def listen(self, address: str) -> str:
        raise NotImplementedError

    def dial(self, address: str) -> Link:
        raise NotImplementedError

    def wait(self, timeout_s: float) -> list[Link]:
        self.waits_s.append(timeout_s)
        return [link for link in self.links if link.is_ready]

    def wake(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Host:
    """A loop and the other ends of its links."""

    def __init__(self, *links: FakeLink) -> None:
        self.hub = FakeHub(*links)
        self.desk: DraftDesk[Link] = DraftDesk(
            FakeModel(), SameVocabulary(), DeskSettings(512, 0)
        )
        self.loop = DraftLoop(self.hub, self.desk)

    def turn(self, num_turns: int = 1) -> None:
        for _ in range(num_turns):
            self.loop.turn()
            self.loop.check_invariants()


def tell(step: int, token_ids: Sequence[int], num_before: int = 0) -> bytes:
    row = TellRow(1, num_before, num_before == 0, 2, np.array(token_ids, np.int32))
    return tell_bytes(Tell(step, np.ones(NUM_KINDS, np.float32), 0.5, [row]))


def answers(link: FakeLink) -> list[Answer]:
    return [read_answer(frame) for frame in link.sent()]


def test_each_engine_gets_its_drafts_and_then_the_host_waits() -> None:
    a, b = FakeLink("a"), FakeLink("b")
    host = Host(a, b)
    a.to_give, b.to_give = [tell(7, [0, 1])], [tell(9, [2])]
    host.turn(4)
    for link, step, said in ((a, 7, [0, 1]), (b, 9, [2])):
        (answer,) = answers(link)
        assert (answer.step, answer.rows[0].token_ids) == (step, expected(said, 2))
    assert host.hub.waits_s == [0.0 if turn in (1, 2) else 1.0 for turn in range(4)]
    assert (host.loop.num_engines, host.loop.num_answers) == (2, 2)


def test_of_what_one_engine_has_told_all_is_heard_and_the_last_is_answered() -> None:
    link = FakeLink()
    host = Host(link)
    link.to_give = [tell(1, [0, 1]), tell(2, [2], 2), tell(3, [0, 0], 3)]
    host.turn(3)
    (answer,) = answers(link)
    assert (answer.step, answer.rows[0].token_ids) == (3, expected([0, 1, 2, 0, 0], 2))


def test_an_engine_that_tells_nonsense_or_is_gone_is_forgotten_and_others_go_on() -> None:
    bad, lost, good = FakeLink("bad"), FakeLink("lost"), FakeLink("good")
    host = Host(bad, lost, good)
    for link in (bad, lost, good):
        link.to_give = [tell(1, [0, 1])]
    host.turn()
    bad.to_give, lost.is_lost = [b"\1\1"], True
    host.turn(3)
    assert (bad.is_closed, lost.is_closed, good.is_closed) == (True, True, False)
    assert (host.desk.num_sequences, host.loop.num_engines) == (1, 1)
    assert [answer.step for answer in answers(good)] == [1]


def test_an_engine_that_takes_no_answers_is_left() -> None:
    deaf, good = FakeLink("deaf", has_room=False), FakeLink("good")
    host = Host(deaf, good)
    deaf.to_give, good.to_give = [tell(1, [0])], [tell(1, [0])]
    host.turn(3)
    assert (deaf.is_closed, host.desk.num_sequences) == (True, 1)
    assert len(answers(good)) == 1

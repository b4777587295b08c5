"""Drafts for the sequences of many engines at once."""

from collections.abc import Sequence

import numpy as np

from deployments.drafts.host.desk import (
    CHUNK_TOKENS,
    MAX_IN_LINE_TOKENS,
    STALE_TELLS,
    DeskSettings,
    DraftDesk,
)
from deployments.drafts.messages import Answer, AnswerRow, Tell, TellRow
from deployments.drafts.vocabulary import SameVocabulary
from router.speculation.confidence import NUM_KINDS
from tests.deployments.drafts.host.fake_model import FakeModel, likeliest
from tests.reference.drafts import draft

SURE = [1.0] * NUM_KINDS
UNKNOWN = AnswerRow(False, (), ())
NOTHING = AnswerRow(True, [], [])


class Desk:
    """A desk, asked in short."""

    def __init__(self, num_pages: int = 1000, context_tokens: int = 512, ahead_tokens: int = 0):
        self.model = FakeModel(num_pages)
        self.desk: DraftDesk[str] = DraftDesk(
            self.model, SameVocabulary(), DeskSettings(context_tokens, ahead_tokens)
        )
        self.step = 0

    def tell(self, owner: str, *rows: TellRow, rates: Sequence[float] = SURE) -> int:
        """The step's number."""
        self.step += 1
        self.desk.tell(owner, Tell(self.step, np.array(rates, np.float32), 0.5, rows))
        self.desk.check_invariants()
        return self.step

    def turn(self) -> bool:
        is_busy = self.desk.turn()
        self.desk.check_invariants()
        return is_busy

    def answers(self) -> dict[str, Answer]:
        return dict(self.desk.answers())

    def asked(self, owner: str, *rows: TellRow) -> list[AnswerRow]:
        """What the owner is answered, after all work is done."""
        self.tell(owner, *rows)
        found = self.answers()
        while self.turn():
            found |= self.answers()
        found |= self.answers()
        assert found[owner].step == self.step
        return list(found[owner].rows)


def row(
    number: int,
    token_ids: Sequence[int],
    num_before: int = 0,
    max_tokens: int = 4,
    is_fresh: bool | None = None,
) -> TellRow:
    """Fresh unless tokens came before."""
    is_fresh = num_before == 0 if is_fresh is None else is_fresh
    return TellRow(number, num_before, is_fresh, max_tokens, np.array(token_ids, np.int32))


def expected(token_ids: Sequence[int], max_tokens: int = 4) -> list[int]:
    return draft(token_ids, max_tokens, SURE, 0.5, likeliest, SameVocabulary())


def test_sequences_of_all_engines_go_on_in_one_batch() -> None:
    desk = Desk()
    desk.tell("a", row(1, [0, 1]), row(2, [1]))
    desk.tell("b", row(1, [2, 2, 2]))
    while desk.turn():
        pass
    assert desk.model.batches == [[2, 1, 3], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    found = desk.answers()
    assert [list(r.token_ids) for r in found["a"].rows] == [expected([0, 1]), expected([1])]
    assert [list(r.token_ids) for r in found["b"].rows] == [expected([2, 2, 2])]
    assert desk.answers() == {}


def test_what_was_accepted_is_not_read_again() -> None:
    desk = Desk()
    (first,) = desk.asked("a", row(1, [0, 1, 2]))
    desk.model.batches.clear()
    (second,) = desk.asked("a", row(1, first.token_ids[:2], num_before=3))
    assert second.token_ids == expected([0, 1, 2, *first.token_ids[:2]])
    assert desk.model.batches == [[1], [1]]


def test_a_draft_ends_where_it_is_not_likely_to_be_accepted_so_far() -> None:
    desk = Desk()
    desk.tell("a", row(1, [0, 1], max_tokens=8), rates=[0.8] * NUM_KINDS)
    while desk.turn():
        pass
    (found,) = desk.answers()["a"].rows
    assert len(found.token_ids) == 4  # 0.8 ** 3 is more than a half
    assert found.token_ids == expected([0, 1])


def test_what_is_ordered_later_is_answered_and_what_was_ordered_before_is_not() -> None:
    desk = Desk()
    desk.tell("a", row(1, [0, 1]))
    desk.turn()
    assert desk.answers() == {}
    step = desk.tell("a", row(1, [2], num_before=2))
    while desk.turn():
        pass
    found = desk.answers()
    assert [answer.step for answer in found.values()] == [step]
    assert found["a"].rows[0].token_ids == expected([0, 1, 2])


def test_who_is_not_known_or_goes_on_from_elsewhere_is_to_be_told_anew() -> None:
    desk = Desk()
    assert desk.asked("a", row(7, [1], num_before=3)) == [UNKNOWN]
    desk.asked("a", row(1, [0, 1]), row(2, [0]))
    ((gap, whole),) = [desk.asked("a", row(1, [1], num_before=3), row(2, [1], num_before=1))]
    assert (gap, whole.token_ids) == (UNKNOWN, expected([0, 1]))
    assert desk.asked("b", row(2, [1], num_before=2)) == [UNKNOWN]
    (again,) = desk.asked("a", row(1, [1, 1], num_before=9, is_fresh=True))
    assert again.token_ids == expected([1, 1])
    (after,) = desk.asked("a", row(1, [0], num_before=11))
    assert after.token_ids == expected([1, 1, 0])


def test_a_long_prompt_keeps_nobody_waiting_and_is_drafted_for_when_it_was_read() -> None:
    desk = Desk()
    prompt = [i % 3 for i in range(2 * CHUNK_TOKENS + 10)]
    desk.tell("a", row(1, prompt))
    desk.tell("b", row(1, [0, 1], max_tokens=1))
    found = desk.answers()
    assert found["a"].rows == [AnswerRow(True, (), ())]
    while desk.turn():
        pass
    assert desk.answers()["b"].rows[0].token_ids == expected([0, 1], 1)
    assert desk.model.batches == [[2], [CHUNK_TOKENS], [CHUNK_TOKENS]]
    (after,) = desk.asked("a", row(1, [2], num_before=len(prompt)))
    assert after.token_ids == expected([*prompt, 2])


def test_what_is_not_much_is_read_while_the_engine_waits() -> None:
    desk = Desk()
    prompt = [1] * MAX_IN_LINE_TOKENS
    assert desk.asked("a", row(1, prompt))[0].token_ids == expected(prompt)


def test_a_path_goes_on_ahead_of_the_draft_that_was_given() -> None:
    desk = Desk(ahead_tokens=3)
    (first,) = desk.asked("a", row(1, [0, 1], max_tokens=2))
    assert first.token_ids == expected([0, 1], 2)
    ahead = expected([0, 1], 5)
    desk.tell("a", row(1, ahead[:3], num_before=2, max_tokens=2))
    assert desk.answers()["a"].rows[0].token_ids == ahead[3:5]


def test_drafts_that_are_waited_for_go_before_those_ahead() -> None:
    desk = Desk(ahead_tokens=9)
    desk.tell("a", row(1, [0, 1], max_tokens=1))
    desk.turn()
    desk.answers()
    desk.tell("b", row(1, [2], max_tokens=2))
    desk.model.batches.clear()
    desk.turn()
    desk.turn()
    assert desk.answers()["b"].rows[0].token_ids == expected([2], 2)
    desk.turn()
    assert desk.model.batches == [[1], [1], [1, 1]]


def test_the_sequence_told_least_recently_gives_way_and_is_told_anew() -> None:
    desk = Desk(num_pages=3)
    for number in (1, 2):
        desk.asked("a", row(number, [number]))
    desk.asked("a", row(1, [0], num_before=1))
    desk.asked("a", row(3, [0]))
    assert desk.desk.num_sequences == 2
    assert desk.asked("a", row(2, [0], num_before=1)) == [UNKNOWN]
    (kept,) = desk.asked("a", row(1, [0], num_before=2))
    assert kept.token_ids == expected([1, 0, 0])


def test_a_sequence_for_which_there_is_no_room_has_no_draft_and_holds_nobody_up() -> None:
    desk = Desk(num_pages=3)
    found = desk.asked("a", *(row(number, [number - 1]) for number in (1, 2, 3)))
    assert [list(each.token_ids) for each in found] == [expected([0]), expected([1]), []]
    desk.asked("a", row(1, [0], num_before=1))
    (third,) = desk.asked("a", row(3, [0], num_before=1))
    assert third.token_ids == expected([2, 0])


def test_a_sequence_that_has_said_nothing_has_no_draft() -> None:
    desk = Desk(num_pages=2)
    assert desk.asked("a", row(1, [])) == [NOTHING]
    assert desk.asked("b", row(1, [0]))[0].token_ids == expected([0])
    assert desk.asked("b", row(2, [0]))[0].token_ids == expected([0])


def test_sequences_of_an_engine_that_tells_no_more_give_way() -> None:
    desk = Desk(num_pages=3)
    desk.asked("idle", row(1, [0]), row(2, [0]))
    token_ids = [1]
    for _ in range(3 * STALE_TELLS):
        desk.asked("b", row(1, token_ids, is_fresh=True))
    assert desk.asked("b", row(1, token_ids, is_fresh=True))[0].token_ids == expected([1])
    found = desk.asked("idle", row(1, [0], num_before=1), row(2, [0], num_before=1))
    assert found[0] == UNKNOWN
    assert found[1].token_ids == expected([0, 0])


def test_nothing_is_kept_of_an_engine_that_is_gone() -> None:
    desk = Desk()
    desk.asked("b", row(1, [2]))
    desk.tell("a", row(1, [0, 1]))
    desk.turn()
    desk.desk.forget("a")
    desk.desk.check_invariants()
    assert (desk.turn(), desk.answers(), desk.desk.num_sequences) == (False, {}, 1)
    desk.desk.forget("b")
    assert desk.model.pages.num_free == desk.model.pages.num_pages - 1


def test_a_sequence_that_has_grown_is_read_anew_from_its_latest_tokens() -> None:
    desk = Desk(context_tokens=8)
    desk.asked("a", row(1, [0] * 16))
    (found,) = desk.asked("a", row(1, [1], num_before=16))
    assert found.token_ids == expected([*[0] * 7, 1])


def test_what_a_token_takes_is_told_with_answers() -> None:
    times = iter(range(1000))
    model = FakeModel()
    desk: DraftDesk[str] = DraftDesk(
        model, SameVocabulary(), DeskSettings(512, 0), clock=lambda: float(next(times))
    )
    token_s = []
    for step in range(40):
        desk.tell(
            "a",
            Tell(step, np.array(SURE, np.float32), 0.5, [row(1, [step % 3], num_before=step)]),
        )
        while desk.turn():
            pass
        ((_, answer),) = desk.answers()
        token_s.append(answer.token_s)
    assert token_s == sorted(token_s)
    assert 0.95 < token_s[-1] <= 1


def test_an_engine_gets_what_there_is_when_its_patience_ends() -> None:
    now_s = [0.0]
    desk: DraftDesk[str] = DraftDesk(
        FakeModel(), SameVocabulary(), DeskSettings(512, 0), clock=lambda: now_s[0]
    )
    tell = Tell(1, np.array(SURE, np.float32), 0.5, [row(1, [1, 2])], patience_s=1.0)
    desk.tell("a", tell)
    for _ in range(2):
        assert desk.turn()
        now_s[0] += 0.4
        assert not list(desk.answers())
    now_s[0] += 0.4
    [(owner, answer)] = desk.answers()
    assert (owner, len(answer.rows[0].token_ids)) == ("a", 2)
    assert not list(desk.answers())

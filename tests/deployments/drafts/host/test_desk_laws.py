"""Drafts are those of who reads everything anew, whatever is told, by whom, and when."""

from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from deployments.drafts.host.desk import MAX_IN_LINE_TOKENS, DeskSettings, DraftDesk
from deployments.drafts.messages import Answer, Tell, TellRow
from deployments.drafts.vocabulary import SameVocabulary, Vocabulary
from router.speculation.confidence import PRIOR_RATES
from tests.deployments.drafts.host.fake_model import FakeModel, likeliest
from tests.deployments.drafts.host.odd_vocabulary import OddVocabulary
from tests.reference.drafts import draft, latest

RATES = np.array(PRIOR_RATES, np.float32)
LEAST = 0.2
MANY_PAGES, FEW_PAGES = 200, 4
OWNERS = st.sampled_from("ab")
TOKEN_IDS = st.integers(0, 3)


class Followed:
    """A sequence as its engine has it, and its twin."""

    def __init__(self, num_before: int) -> None:
        self.num_told = num_before
        self.said: list[int] = []
        """In the draft model's tokens; the latest alone."""
        self.num_new = 0
        """At most so many of them are unread."""
        self.draft: list[int] = []


class DeskMachine(RuleBasedStateMachine):
    """Engines that tell of three sequences each."""

    @initialize(
        num_pages=st.sampled_from([MANY_PAGES, FEW_PAGES]),
        context_tokens=st.sampled_from([8, 40]),
        ahead_tokens=st.sampled_from([0, 3]),
        vocabulary=st.sampled_from([SameVocabulary(), OddVocabulary()]),
    )
    def begin(
        self, num_pages: int, context_tokens: int, ahead_tokens: int, vocabulary: Vocabulary
    ) -> None:
        self.model = FakeModel(num_pages)
        self.has_room = num_pages == MANY_PAGES
        self.context_tokens = context_tokens
        self.vocabulary = vocabulary
        self.desk: DraftDesk[str] = DraftDesk(
            self.model, vocabulary, DeskSettings(context_tokens, ahead_tokens)
        )
        self.step = 0
        self.known: dict[str, dict[int, Followed]] = defaultdict(dict)
        self.orders: dict[str, tuple[Tell, list[Followed | None]]] = {}
        """Those that are not answered."""
        self.ordered: dict[str, list[Followed | None]] = {}
        """What is worked on, for those who wait and for later."""

    @rule(owner=OWNERS, numbers=st.sets(st.integers(1, 3)), data=st.data())
    def an_engine_tells(self, owner: str, numbers: set[int], data: st.DataObject) -> None:
        self.step += 1
        rows = [self.row(owner, number, data) for number in sorted(numbers)]
        tell = Tell(self.step, RATES, LEAST, [row for row, _ in rows])
        self.desk.tell(owner, tell)
        self.ordered[owner] = [followed for _, followed in rows]
        self.orders[owner] = tell, self.ordered[owner]

    @rule(num_turns=st.integers(1, 3))
    def the_desk_works(self, num_turns: int) -> None:
        for _ in range(num_turns):
            self.take_answers()
            self.desk.turn()
            self.desk.check_invariants()
        self.take_answers()

    @rule()
    def the_desk_does_all_there_is_to_do(self) -> None:
        self.take_answers()
        while self.desk.turn():
            self.desk.check_invariants()
            self.take_answers()
        self.take_answers()
        assert self.orders == {}, "an order waits for ever"
        for sequences in self.ordered.values():
            for followed in filter(None, sequences):
                followed.num_new = 1

    @rule(owner=OWNERS)
    def an_engine_is_gone(self, owner: str) -> None:
        self.desk.forget(owner)
        self.known.pop(owner, None)
        self.orders.pop(owner, None)
        self.ordered.pop(owner, None)

    @invariant()
    def the_desk_holds_together(self) -> None:
        self.desk.check_invariants()

    def teardown(self) -> None:
        for owner in "ab":
            self.desk.forget(owner)
        self.desk.check_invariants()
        assert self.desk.num_sequences == 0
        assert self.model.pages.num_free == self.model.pages.num_pages - 1

    def row(
        self, owner: str, number: int, data: st.DataObject
    ) -> tuple[TellRow, Followed | None]:
        """What the engine tells of the sequence; None: what the desk cannot know."""
        followed = self.known[owner].get(number)
        is_fresh = followed is None or data.draw(st.integers(0, 9)) == 0
        if is_fresh:
            followed = self.known[owner][number] = Followed(data.draw(st.integers(0, 2)))
            num_new = data.draw(st.sampled_from([0, 1, 7, 40, 170]))
            new = [(i * i + num_new + number) % 4 for i in range(num_new)]
        else:
            assert followed is not None
            new = followed.draft[: data.draw(st.integers(0, 4))]
            new += data.draw(st.lists(TOKEN_IDS, max_size=2))
        max_tokens = data.draw(st.integers(0, 4))
        token_ids = np.array(new, np.int32)
        if not is_fresh and data.draw(st.integers(0, 9)) == 0:
            del self.known[owner][number]
            return TellRow(number, followed.num_told + 1, False, max_tokens, token_ids), None
        row = TellRow(number, followed.num_told, is_fresh, max_tokens, token_ids)
        self.say(followed, new)
        return row, followed

    def say(self, followed: Followed, new: list[int]) -> None:
        own_ids = self.vocabulary.own_ids(new)
        followed.num_told += len(new)
        followed.said = latest([*followed.said, *own_ids], self.context_tokens)
        followed.num_new = min(followed.num_new + len(own_ids) + 1, len(followed.said))
        followed.draft = []

    def take_answers(self) -> None:
        for owner, answer in list(self.desk.answers()):
            self.check(owner, answer, *self.orders.pop(owner))
            self.desk.check_invariants()

    def check(
        self, owner: str, answer: Answer, tell: Tell, sequences: list[Followed | None]
    ) -> None:
        assert answer.step == tell.step
        for row, followed, found in zip(tell.rows, sequences, answer.rows, strict=True):
            assert len(found.token_ids) == len(found.kinds)
            if followed is None or not found.is_known:
                assert not found.is_known
                assert followed is None or not self.has_room
                self.known[owner].pop(row.sequence, None)
                continue
            terms: Any = (RATES.tolist(), LEAST, likeliest, self.vocabulary)
            expected = draft(followed.said, row.max_tokens, *terms)
            followed.draft = list(found.token_ids)
            if self.has_room and followed.num_new <= MAX_IN_LINE_TOKENS:
                assert followed.draft == expected
            else:
                assert followed.draft == expected[: len(followed.draft)]


TestDesk = DeskMachine.TestCase
TestDesk.settings = settings(max_examples=60, stateful_step_count=20)

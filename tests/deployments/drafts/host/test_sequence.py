"""A sequence as the draft model has it."""

from itertools import takewhile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.drafts.host.sequence import DraftedSequence, PathToken
from deployments.drafts.vocabulary import SameVocabulary
from tests.deployments.drafts.host.odd_vocabulary import OddVocabulary

SAME = SameVocabulary()
ODD = OddVocabulary()


def path_token(own_id: int, kind: int = 0) -> PathToken:
    return PathToken(own_id, own_id, kind)


def said(*token_ids: int) -> DraftedSequence:
    """One that has said these."""
    sequence = DraftedSequence(0)
    sequence.say(token_ids, SAME)
    sequence.check_invariants()
    return sequence


def drafted(sequence: DraftedSequence, *own_ids: int) -> DraftedSequence:
    """With a path of these; each is said when all before it is read."""
    for own_id in own_ids:
        sequence.go_on(path_token(own_id), len(sequence.unread))
        sequence.check_invariants()
    return sequence


def ids(sequence: DraftedSequence) -> list[int]:
    return [token.own_id for token in sequence.path]


def test_what_agrees_with_the_path_is_not_read_again() -> None:
    sequence = drafted(said(1, 2), 3, 4, 5)
    assert (sequence.num_read, sequence.unread) == (4, [5])
    sequence.say([3, 4], SAME)
    assert (sequence.said, ids(sequence)) == ([1, 2, 3, 4], [5])
    assert (sequence.num_read, sequence.unread) == (4, [5])
    sequence.check_invariants()


def test_where_the_path_leads_elsewhere_it_is_cut_off() -> None:
    sequence = drafted(said(1, 2), 3, 4, 5)
    sequence.say([3, 9], SAME)
    assert (sequence.said, ids(sequence)) == ([1, 2, 3, 9], [])
    assert (sequence.num_read, sequence.unread) == (3, [9])
    sequence.check_invariants()


def test_when_all_of_the_path_was_said_its_last_token_is_to_be_read() -> None:
    sequence = drafted(said(1, 2), 3, 4)
    sequence.say([3, 4], SAME)
    assert (sequence.said, sequence.path, sequence.unread) == ([1, 2, 3, 4], [], [4])
    sequence.check_invariants()


def test_a_path_at_whose_end_the_engine_has_no_token_goes_on_when_another_was_said() -> None:
    sequence = drafted(said(1), 2)
    sequence.go_on(None, len(sequence.unread))
    sequence.check_invariants()
    assert (sequence.is_at_end, ids(sequence)) == (True, [2])
    sequence.say([2], SAME)
    sequence.check_invariants()
    assert sequence.is_at_end
    sequence.say([7], SAME)
    assert (sequence.is_at_end, sequence.said, sequence.unread) == (False, [1, 2, 7], [7])
    sequence.check_invariants()


def test_after_tokens_without_a_text_the_last_one_is_read_again() -> None:
    sequence = DraftedSequence(0)
    sequence.say([1, 0], ODD)
    sequence.go_on(None, 2)
    sequence.say([3], ODD)
    assert (sequence.said, sequence.unread, sequence.num_told) == ([1, 0], [0], 3)
    sequence.check_invariants()


def test_a_shortened_sequence_is_read_anew() -> None:
    sequence = drafted(said(1, 2, 3, 4), 5)
    sequence.shorten(3)
    assert (sequence.said, sequence.path, sequence.num_read) == ([2, 3, 4], [], 0)
    assert (sequence.unread, sequence.num_told) == ([2, 3, 4], 4)
    sequence.check_invariants()


class SequenceMachine(RuleBasedStateMachine):
    """`read` is what the model's pages hold: a chunk is written from `num_read` on."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence = DraftedSequence(5)
        self.num_told = 5
        self.said: list[int] = []
        self.read: list[int] = []

    def whole(self) -> list[int]:
        return self.sequence.said + ids(self.sequence)

    def write(self, num_tokens: int) -> None:
        chunk = self.sequence.unread[:num_tokens]
        self.read = self.read[: self.sequence.num_read] + chunk

    @precondition(lambda self: len(self.sequence.unread) > 1)
    @rule()
    def reads_a_part(self) -> None:
        self.write(1)
        self.sequence.num_read += 1

    @precondition(lambda self: self.sequence.unread and not self.sequence.is_at_end)
    @rule(own_id=st.integers(0, 2))
    def reads_all_and_goes_on(self, own_id: int) -> None:
        num_unread = len(self.sequence.unread)
        self.write(num_unread)
        token_id = ODD.token_id(own_id)
        self.sequence.go_on(None if token_id is None else path_token(own_id), num_unread)

    @rule(num_agreed=st.integers(0, 3), more=st.lists(st.integers(0, 3), max_size=2))
    def says(self, num_agreed: int, more: list[int]) -> None:
        path = [token.token_id for token in self.sequence.path]
        new, num_read = path[:num_agreed] + more, self.sequence.num_read
        pairs = zip(path, new, strict=False)
        num_same = len(self.said) + len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        self.sequence.say(new, ODD)
        self.said += ODD.own_ids(new)
        self.num_told += len(new)
        assert self.sequence.num_read >= min(num_read, num_same, len(self.said) - 1)

    @precondition(lambda self: self.said)
    @rule(num_tokens=st.integers(1, 4))
    def is_shortened(self, num_tokens: int) -> None:
        self.sequence.shorten(num_tokens)
        self.said, self.read = self.said[-num_tokens:], []

    @invariant()
    def what_was_told_was_said_and_what_is_not_read_is_unread(self) -> None:
        self.sequence.check_invariants()
        num_read = self.sequence.num_read
        assert (self.sequence.said, self.sequence.num_told) == (self.said, self.num_told)
        assert self.whole() == self.read[:num_read] + self.sequence.unread


TestSequence = SequenceMachine.TestCase
TestSequence.settings = settings(max_examples=60, stateful_step_count=15)

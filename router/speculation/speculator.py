"""Which drafts an engine is to verify, step by step: pure decisions.

Each step, for each sequence that has said something: what became of its latest draft is
learnt, drafters propose, the draft that promises most is taken, and all drafts together are cut
to the lengths that bring the most tokens a second. Where that has been none for a while,
drafters are asked more and more rarely, so that speculation that does not pay costs nothing.

What is never tried is never learnt. So now and then, at first often, the opposite is done for a
step: nothing is verified where drafts pay, and a few tokens are where they do not.
"""

from collections.abc import Sequence
from typing import NamedTuple

from router.speculation.chances import ChanceTable
from router.speculation.drafter import Drafter
from router.speculation.lengths import choose_lengths
from router.speculation.sequence_book import SequenceBook, SequenceState
from router.speculation.settings import SpeculationSection
from router.speculation.step_time import StepTime
from router.speculation.types import NO_DRAFT, TokenIds

MAX_PAUSE_STEPS = 32
"""Most steps in which drafters are not asked, after all their drafts were not worth it."""

FIRST_EXPLORE_STEPS, EXPLORE_STEPS = 4, 64
"""From one step that does the opposite to the next: at first, and twice as many each time."""

_EXPLORED_PART = 8
"""One token is explored for each so many sequences."""

_PRIOR_TOKENS = 20

Drafts = list[Sequence[int]]


class Row(NamedTuple):
    """One sequence in an engine's batch, after a step."""

    row: int
    tokens: TokenIds  # [num_tokens]: prompt and output, contiguous
    num_new: int
    """How many of them the step has brought."""
    max_tokens: int
    """How many it has room for."""


class Speculator:
    """Of one engine. Not for several threads at once."""

    def __init__(self, section: SpeculationSection, drafters: Sequence[Drafter]) -> None:
        self._section = section
        self._drafters = tuple(drafters)
        self._tables = [
            ChanceTable(drafter.prior_rates, section.memory_tokens, _PRIOR_TOKENS)
            for drafter in drafters
        ]
        self._book = SequenceBook(len(self._drafters))
        self._times = StepTime(section.memory_steps)
        self._pause_steps = 0
        self._num_paused = 0
        self._num_unexplored = 0
        self._explore_steps = FIRST_EXPLORE_STEPS

    def propose(self, rows: Sequence[Row], seconds: float | None) -> Drafts:
        """Drafts for the next step, one a row.

        `seconds` is what the step took that has brought the rows' tokens; None where it did
        other things besides, or where the engine had waited.
        """
        self._book.next_step()
        self._num_unexplored += 1
        states = []
        is_same, num_verified = True, 0
        for row in rows:
            state, is_known = self._book.find(row.row, row.tokens, row.num_new)
            is_same = is_same and is_known
            num_verified += state.num_given
            self._learn(state, row)
            states.append(state)
        if seconds is not None and is_same and rows:
            self._times.observe(len(rows), num_verified, seconds)
        if self._is_paused():
            return [()] * len(rows)
        return self._drafts_for(rows, states)

    def _learn(self, state: SequenceState, row: Row) -> None:
        """From what became of the sequence's latest draft."""
        start = len(row.tokens) - row.num_new
        for drafter in self._drafters:
            drafter.saw(row.tokens, start)
        if not state.num_given:
            return
        table, bias = self._tables[state.drafter], state.biases[state.drafter]
        said = row.tokens[start:].tolist()
        for position in range(min(state.num_given, len(said))):
            is_accepted = said[position] == state.draft.token_ids[position]
            if is_accepted and position == len(said) - 1:
                break  # the engine has verified less than it was given
            bias = table.learn(state.draft.kinds[position], bias, is_accepted=is_accepted)
        state.biases[state.drafter] = bias
        state.draft, state.num_given = NO_DRAFT, 0

    def _is_paused(self) -> bool:
        if self._num_paused < self._pause_steps:
            self._num_paused += 1
            return True
        self._num_paused = 0
        return False

    def _drafts_for(self, rows: Sequence[Row], states: Sequence[SequenceState]) -> Drafts:
        chances = [self._draft(row, state) for row, state in zip(rows, states, strict=True)]
        lengths = self._lengths(chances)
        for state, length in zip(states, lengths, strict=True):
            state.num_given = length
        return [
            state.draft.token_ids[:length]
            for state, length in zip(states, lengths, strict=True)
        ]

    def _draft(self, row: Row, state: SequenceState) -> list[float]:
        """The most promising draft, which becomes the sequence's own; its chances."""
        best_chances: list[float] = []
        best_gain = 0.0
        limit = min(self._section.max_tokens, row.max_tokens)
        for number, drafter in enumerate(self._drafters):
            table = self._tables[number]
            draft = drafter.draft(row.tokens, limit, table.rates)
            chances = table.chances(draft.kinds, state.biases[number])
            gain = _expected(chances)
            if gain > best_gain:
                best_chances, best_gain = chances, gain
                state.draft, state.drafter = draft, number
        return best_chances

    def _lengths(self, chances: Sequence[Sequence[float]]) -> list[int]:
        if self._section.length == "fixed" or not any(chances):
            return [len(draft) for draft in chances]
        num = len(chances)
        lengths = choose_lengths(
            chances, self._times.with_drafts(num), num * self._section.max_tokens
        )
        pays = any(lengths)
        self._pause_steps = 0 if pays else min(max(1, 2 * self._pause_steps), MAX_PAUSE_STEPS)
        if self._num_unexplored < self._explore_steps:
            return lengths
        self._num_unexplored = 0
        self._explore_steps = min(2 * self._explore_steps, EXPLORE_STEPS)
        if pays:
            return [0] * num
        return choose_lengths(chances, _nothing, -(-num // _EXPLORED_PART))


def _expected(chances: Sequence[float]) -> float:
    """Tokens of a draft that are expected to be accepted."""
    total, product = 0.0, 1.0
    for chance in chances:
        product *= chance
        total += product
    return total


def _nothing(num_draft_tokens: int) -> float:
    """What tokens cost to who wants to know."""
    return 1.0

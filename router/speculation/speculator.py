"""Which drafts an engine is to verify, step by step: pure decisions.

Each step, for each sequence that has said something: what became of its latest draft is
learnt, drafters propose, the draft that promises most is taken, and all drafts together are cut
to the lengths that bring the most tokens a second. Where that has been none for a while,
drafters are asked more and more rarely, so that speculation that does not pay costs nothing.

What is never tried is never learnt. So now and then, at first often, the opposite is done for a
step: nothing is verified where drafts pay, and a few tokens are where they do not.

A source of drafts is told before the drafters are asked, and gives after them. How long it may
take follows from what its drafts have gained; whether it is told at all, `Judge` says, as it
may cost what no step shows.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.speculation.chances import ChanceTable
from router.speculation.draft_source import DraftSource, Terms, ToldRow
from router.speculation.drafter import Drafter
from router.speculation.judge import Judge
from router.speculation.lengths import choose_lengths
from router.speculation.sequence_book import SequenceBook, SequenceState
from router.speculation.settings import SpeculationSection
from router.speculation.step_time import StepTime
from router.speculation.types import NO_DRAFT, Draft, TokenIds

MAX_PAUSE_STEPS = 32
"""Most steps in which drafters are not asked, after all their drafts were not worth it."""

FIRST_EXPLORE_STEPS, EXPLORE_STEPS = 4, 64
"""From one step that does the opposite to the next: at first, and twice as many each time."""

OFF, DRAFTERS, ALL = 0, 1, 2
"""Ways to draft: not at all, without the source, with it."""

_SETTLING_STEPS = (1, 1, 4)
"""A source that was not told for a while has to catch up."""

_EXPLORED_PART = 8
"""One token is explored for each so many sequences."""

_PRIOR_TOKENS = 20
_LEAST, _MOST_OF_LEAST = 0.02, 0.9
"""A draft ends at the latest where it is as unlikely, and never where it is likelier."""

_FIRST_GAIN_TOKENS, _GAIN_WEIGHT = 1.0, 1 / 16
_FIXED_PATIENCE_S = 1.0
_ON_ITS_WAY_S = 2e-3

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

    def __init__(
        self,
        section: SpeculationSection,
        drafters: Sequence[Drafter],
        source: DraftSource | None = None,
    ) -> None:
        self._section = section
        self._drafters = tuple(drafters)
        self._source = source
        priors = [drafter.prior_rates for drafter in drafters]
        if source:
            priors.append(source.prior_rates)
        self._tables = [
            ChanceTable(prior, section.memory_tokens, _PRIOR_TOKENS) for prior in priors
        ]
        self._book = SequenceBook(len(priors))
        self._times = StepTime(section.memory_steps)
        has = {OFF: True, DRAFTERS: bool(drafters), ALL: source is not None}
        self._ways = [way for way in (OFF, DRAFTERS, ALL) if has[way]]
        self._judge = Judge([_SETTLING_STEPS[way] for way in self._ways])
        self._way = OFF
        self._gained_tokens = _FIRST_GAIN_TOKENS
        """By a draft of the source's, on average."""
        self._pause_steps = 0
        self._num_paused = 0
        self._num_unexplored = 0
        self._explore_steps = FIRST_EXPLORE_STEPS

    def propose(
        self, rows: Sequence[Row], seconds: float | None, proposed_s: float = 0.0
    ) -> Drafts:
        """Drafts for the next step, one a row.

        `seconds` is what the step took that has brought the rows' tokens; None where it did
        other things besides, or where the engine had waited. `proposed_s` is what the last
        call of this took.
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
            num_tokens = sum(row.num_new for row in rows)
            way = self._ways.index(self._way)
            self._judge.observe(len(rows), way, num_tokens, seconds + proposed_s)
        way = self._next_way(len(rows))
        if way == ALL != self._way:
            # Drafts that nobody waits for are never verified, however good they have become.
            self._gained_tokens = max(self._gained_tokens, _FIRST_GAIN_TOKENS)
        self._way = way
        if way == OFF:
            return [()] * len(rows)
        return self._drafts_for(rows, states)

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other."""
        self._book.check_invariants()
        self._judge.check_invariants()
        for table in self._tables:
            table.check_invariants()

    def _next_way(self, num_sequences: int) -> int:
        if not num_sequences:
            return OFF
        if self._section.length == "fixed":
            return self._ways[-1]
        return self._ways[self._judge.way(num_sequences)]

    def _learn(self, state: SequenceState, row: Row) -> None:
        """From what became of the sequence's latest draft."""
        start = len(row.tokens) - row.num_new
        for drafter in self._drafters:
            drafter.saw(row.tokens, start)
        if not state.num_given:
            return
        table, bias = self._tables[state.drafter], state.biases[state.drafter]
        said = row.tokens[start:].tolist()
        if state.drafter == len(self._drafters):
            gained = min(len(said) - 1, state.num_given) - self._gained_tokens
            self._gained_tokens += _GAIN_WEIGHT * gained
        for position in range(min(state.num_given, len(said))):
            is_accepted = said[position] == state.draft.token_ids[position]
            if is_accepted and position == len(said) - 1:
                break  # the engine has verified less than it was given
            bias = table.learn(state.draft.kinds[position], bias, is_accepted=is_accepted)
        state.biases[state.drafter] = bias
        state.draft, state.num_given = NO_DRAFT, 0

    def _drafts_for(self, rows: Sequence[Row], states: Sequence[SequenceState]) -> Drafts:
        """Those of the drafters, unless they pause, and of the source."""
        if self._way == ALL:
            self._tell(rows, states)
        chances: list[list[float]] = [[] for _ in rows]
        is_paused = self._is_paused()
        if not is_paused:
            pairs = zip(rows, states, strict=True)
            chances = [self._draft(row, state) for row, state in pairs]
        if self._way == ALL:
            self._take(states, chances)
        elif is_paused:
            return [()] * len(rows)
        lengths = self._lengths(chances)
        for state, length in zip(states, lengths, strict=True):
            state.num_given = length
        return [
            state.draft.token_ids[:length]
            for state, length in zip(states, lengths, strict=True)
        ]

    def _is_paused(self) -> bool:
        if self._num_paused < self._pause_steps:
            self._num_paused += 1
            return True
        self._num_paused = 0
        return False

    def _tell(self, rows: Sequence[Row], states: Sequence[SequenceState]) -> None:
        assert self._source is not None
        told = [
            ToldRow(state.number, row.tokens, min(self._section.max_tokens, row.max_tokens))
            for row, state in zip(rows, states, strict=True)
        ]
        num = len(rows)
        terms = Terms(self._tables[-1].rates, self._least(num), self._patience_s(num))
        self._source.tell(told, terms)

    def _least(self, num_sequences: int) -> float:
        """Of a token's likelihood, for it to bring more than verifying and drafting it take."""
        assert self._source is not None
        if self._section.length == "fixed":
            return 0.0
        tokens_per_s = num_sequences / self._times.with_drafts(num_sequences)(0)
        token_s = self._times.token_s + self._source.token_s / num_sequences
        return min(max(tokens_per_s * token_s, _LEAST), _MOST_OF_LEAST)

    def _take(self, states: Sequence[SequenceState], chances: list[list[float]]) -> None:
        """Drafts of the source, where they promise more."""
        assert self._source is not None
        number, table = len(self._drafters), self._tables[-1]
        found: Mapping[int, Draft] = self._source.give(
            self._patience_s(len(states)) + _ON_ITS_WAY_S
        )
        for row, state in enumerate(states):
            draft = found.get(state.number, NO_DRAFT)
            own = table.chances(draft.kinds, state.biases[number])
            if _expected(own) > _expected(chances[row]):
                chances[row], state.draft, state.drafter = own, draft, number

    def _patience_s(self, num_sequences: int) -> float:
        """What a step's drafts save: they take longer at most by what they are worth."""
        if self._section.length == "fixed":
            return _FIXED_PATIENCE_S
        return self._gained_tokens * self._times.with_drafts(num_sequences)(0)

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

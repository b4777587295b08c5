"""An engine and a source of drafts whose time is told by a clock of their own."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from router.speculation.draft_source import Terms, ToldRow
from router.speculation.drafter import Drafter
from router.speculation.settings import SpeculationSection
from router.speculation.speculator import Row, Speculator
from router.speculation.types import Draft, TokenIds

Continues = Callable[[TokenIds], Sequence[int]]

MAX_LEN = 100_000
FIXED_S, TOKEN_S = 10e-3, 0.1e-3
"""What a step takes, and longer for each token in it."""


class Clock:
    """Seconds."""

    now_s = 0.0


class Source:
    """Knows what sequences will say: `continues(tokens)` is its draft."""

    prior_rates = (0.1, 0.8)
    token_s = 0.0

    def __init__(
        self,
        clock: Clock,
        continues: Continues,
        latency_s: float = 0.0,
        slows_by_s: float = 0.0,
    ) -> None:
        self.latency_s = latency_s
        """From tell to give."""
        self.slows_by_s = slows_by_s
        """What a step takes longer that it was told of, as it computes on the same cores."""
        self.continues = continues
        self.told: list[list[ToldRow]] = []
        self.terms: list[Terms] = []
        self.patience_s: list[float] = []
        self._clock = clock
        self._told_s = 0.0

    def tell(self, rows: Sequence[ToldRow], terms: Terms) -> None:
        self.told.append(list(rows))
        self.terms.append(terms)
        self._told_s = self._clock.now_s

    def give(self, patience_s: float) -> Mapping[int, Draft]:
        assert len(self.patience_s) < len(self.told), "nobody has told what is to be given"
        self.patience_s.append(patience_s)
        is_late = self.latency_s > patience_s
        self._clock.now_s += min(self.latency_s, patience_s)
        if is_late:
            return {}
        found = {}
        for row in self.told[-1]:
            token_ids = list(self.continues(row.tokens))[: row.max_tokens]
            found[row.sequence] = Draft(token_ids, [1] * len(token_ids))
        return found


class Engine:
    """Says given texts; each begins with a token of its own."""

    def __init__(self, speculator: Speculator, clock: Clock, texts: Sequence[Sequence[int]]):
        self.speculator = speculator
        self.clock = clock
        self.source: Source | None = None
        self.texts = [np.array(text, np.int32) for text in texts]
        self.lengths = [1] * len(texts)
        self.drafts: list[Sequence[int]] = [()] * len(texts)
        self._proposed_s = 0.0

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    def step(self) -> None:
        num_given = sum(map(len, self.drafts))
        rows = [self._row(row) for row in range(len(self.texts))]
        seconds = FIXED_S + TOKEN_S * (len(rows) + num_given)
        if self.source and self._was_told:
            seconds += self.source.slows_by_s
        self.clock.now_s += seconds
        start_s, num_told = self.clock.now_s, self._num_told
        self.drafts = self.speculator.propose(rows, seconds, self._proposed_s)
        self.speculator.check_invariants()
        self._proposed_s = self.clock.now_s - start_s
        self._was_told = self._num_told > num_told

    _was_told = False

    @property
    def _num_told(self) -> int:
        return len(self.source.told) if self.source else 0

    def _row(self, row: int) -> Row:
        text, length = self.texts[row], self.lengths[row]
        num_new = 1
        for token_id in self.drafts[row]:
            if token_id != text[length + num_new - 1]:
                break
            num_new += 1
        self.lengths[row] += num_new
        tokens = text[: self.lengths[row]]
        return Row(row, tokens, num_new, MAX_LEN - len(tokens) - 1)

    def pace(self, num_steps: int) -> float:
        """Tokens a second, of so many steps."""
        num_tokens, start_s = self.num_tokens, self.clock.now_s
        for _ in range(num_steps):
            self.step()
        return (self.num_tokens - num_tokens) / (self.clock.now_s - start_s)


def random_texts(num: int, num_tokens: int = 60_000) -> list[list[int]]:
    """Nothing in them comes twice but by chance."""
    dice = np.random.default_rng(0)
    texts: list[list[int]] = dice.integers(1000, 30_000, (num, num_tokens)).tolist()
    return [[number, *text[1:]] for number, text in enumerate(texts)]


def knows(texts: Sequence[Sequence[int]]) -> Continues:
    """What follows, of these texts."""
    return lambda tokens: texts[int(tokens[0])][len(tokens) : len(tokens) + 8]


def knows_nothing(tokens: TokenIds) -> Sequence[int]:
    return [7] * 8


def engine_with(
    *drafters: Drafter,
    texts: Sequence[Sequence[int]],
    continues: Continues | None = None,
    latency_s: float = 0.0,
    slows_by_s: float = 0.0,
    length: str = "adaptive",
) -> tuple[Engine, Source]:
    """An engine that asks the drafters and a source."""
    clock = Clock()
    source = Source(clock, continues or knows(texts), latency_s, slows_by_s)
    section = SpeculationSection.model_validate({"length": length})
    engine = Engine(Speculator(section, drafters, source), clock, texts)
    engine.source = source
    return engine, source

"""Which drafts an engine is to verify."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from router.speculation.prompt_lookup import PromptLookup
from router.speculation.settings import SpeculationSection
from router.speculation.speculator import MAX_PAUSE_STEPS, Row, Speculator
from router.speculation.suffix_counts import SuffixCounts
from router.speculation.types import Draft, TokenIds

MAX_LEN = 4096


def cheap(num_sequences: int, num_draft_tokens: int) -> float:
    """Seconds of a step of which tokens are a small part."""
    return 10e-3 + 0.1e-3 * (num_sequences + num_draft_tokens)


def dear(num_sequences: int, num_draft_tokens: int) -> float:
    """Seconds of a step that takes longer by what it has to verify."""
    return 10e-3 * num_sequences + 15e-3 * num_draft_tokens


class Constant:
    """Proposes the same tokens, whatever was said."""

    prior_rates = (0.5,)

    def __init__(self, *token_ids: int) -> None:
        self.token_ids = token_ids
        self.num_asked = 0

    def saw(self, tokens: TokenIds, start: int) -> None:
        """Learns nothing."""

    def draft(self, tokens: TokenIds, max_tokens: int, rates: NDArray[np.float64]) -> Draft:
        self.num_asked += 1
        return Draft(self.token_ids[:max_tokens], [0] * len(self.token_ids[:max_tokens]))


class Engine:
    """Says given texts, verifying the drafts it is given; its steps take what it is told."""

    def __init__(
        self,
        speculator: Speculator,
        texts: Sequence[Sequence[int]],
        step_s: Callable[[int, int], float],
        num_prompt: int = 1,
    ) -> None:
        self.speculator = speculator
        self.texts = [np.array(text, np.int32) for text in texts]
        self.lengths = [num_prompt] * len(texts)
        self.drafts: list[Sequence[int]] = [()] * len(texts)
        self.num_steps = 0
        self.num_given = 0
        self._step_s = step_s

    def step(self) -> None:
        num_given = sum(map(len, self.drafts))
        rows = []
        for row, text in enumerate(self.texts):
            num_new = 1
            for token_id in self.drafts[row]:
                if token_id != text[self.lengths[row] + num_new - 1]:
                    break
                num_new += 1
            self.lengths[row] += num_new
            tokens = text[: self.lengths[row]]
            rows.append(Row(row, tokens, num_new, MAX_LEN - len(tokens) - 1))
        seconds = self._step_s(len(rows), num_given)
        self.drafts = self.speculator.propose(rows, seconds)
        self.num_steps += 1
        self.num_given += num_given

    def run(self, num_tokens: int) -> None:
        while min(self.lengths) < num_tokens:
            self.step()


def speculator(*drafters: object, **settings: object) -> Speculator:
    section = SpeculationSection.model_validate({"drafters": ["prompt_lookup"], **settings})
    return Speculator(section, drafters)  # type: ignore[arg-type]


def repetitive(num_tokens: int = 1200) -> list[int]:
    return (list(range(40)) * (num_tokens // 40 + 1))[:num_tokens]


def random_text(seed: int, num_tokens: int = 1200) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(0, 30_000, num_tokens).tolist()
    return found


def test_what_is_said_again_comes_many_tokens_a_step() -> None:
    engine = Engine(speculator(PromptLookup()), [repetitive()], cheap)
    engine.run(1000)
    assert 1000 / engine.num_steps > 6


def test_drafts_that_cost_more_than_they_bring_are_not_verified() -> None:
    engine = Engine(speculator(PromptLookup()), [repetitive(3000)], dear)
    engine.run(1000)
    before, num_steps = engine.num_given, engine.num_steps
    engine.run(2000)
    assert engine.num_steps - num_steps > 950
    assert engine.num_given - before < 40


def test_who_is_never_right_is_hardly_asked_any_more_and_is_heard_again_when_right() -> None:
    drafter = Constant(7, 7, 7, 7)
    wrong = speculator(drafter)
    engine = Engine(wrong, [[1] * 4000], cheap)
    for _ in range(1000):
        engine.step()
    drafter.num_asked = 0
    for _ in range(640):
        engine.step()
    assert drafter.num_asked <= 640 / MAX_PAUSE_STEPS + 5
    drafter.token_ids = (1, 1, 1, 1)
    before = engine.lengths[0]
    for _ in range(400):
        engine.step()
    assert engine.lengths[0] - before > 500


def test_a_fixed_length_is_what_drafters_propose() -> None:
    engine = Engine(
        speculator(Constant(7, 7, 7, 7), length="fixed", max_tokens=3), [[1] * 100], dear
    )
    engine.step()
    assert engine.drafts == [(7, 7, 7)]


def test_of_two_drafters_each_sequence_takes_who_is_right_about_it() -> None:
    both = speculator(Constant(1, 1, 1, 1), Constant(2, 2, 2, 2))
    engine = Engine(both, [[1] * 3000, [2] * 3000], cheap)
    engine.run(1000)
    engine.step()
    assert [set(draft) for draft in engine.drafts] == [{1}, {2}]


def test_what_one_sequence_said_helps_the_next() -> None:
    text = random_text(0)
    together = speculator(SuffixCounts(1 << 22))
    first = Engine(together, [text], cheap)
    first.run(1000)
    second = Engine(together, [text], cheap)
    second.run(1000)
    assert second.num_steps < first.num_steps / 3


def test_a_draft_ends_where_the_sequence_has_to() -> None:
    drafter = speculator(Constant(7, 7, 7, 7), length="fixed")
    tokens = np.array([1, 2, 3], np.int32)
    assert drafter.propose([Row(0, tokens, 1, 2)], None) == [(7, 7)]
    assert drafter.propose([Row(0, tokens, 1, 0)], None) == [()]


def test_a_draft_that_the_engine_cut_short_is_not_held_against_it() -> None:
    drafter = speculator(Constant(7, 7, 7, 7), length="fixed")
    text = np.array([1] + [7] * 200, np.int32)
    length = 1
    for _ in range(40):  # one of four tokens is verified, and right; then one more comes
        length += 2
        drafter.propose([Row(0, text[:length], 2, 100)], 0.01)
    (table,) = drafter._tables
    assert table.rates[0] > 0.7

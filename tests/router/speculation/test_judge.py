"""Which way to draft brings the most tokens a second."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.speculation.judge import (
    HOPELESS_STEPS,
    MAX_INTERVAL,
    SPELL_STEPS,
    TRIAL_STEPS,
    Judge,
)

SETTLING = (1, 1, 4)


class Engine:
    """Its ways bring so many tokens a second, more or less."""

    def __init__(self, judge: Judge, noise: float = 0.0, seed: int = 0) -> None:
        self.judge = judge
        self.ways: list[int] = []
        """Of all steps."""
        self._noise = noise
        self._dice = np.random.default_rng(seed)

    def run(self, rates: Sequence[float], num_steps: int, num_sequences: int = 1) -> list[int]:
        """The ways of these steps."""
        for _ in range(num_steps):
            way = self.judge.way(num_sequences)
            num_tokens = num_sequences * int(self._dice.integers(1, 4))
            seconds = num_tokens / rates[way] * self._dice.lognormal(0.0, self._noise)
            self.judge.observe(num_sequences, way, num_tokens, seconds)
            self.judge.check_invariants()
            self.ways.append(way)
        return self.ways[-num_steps:]


def trials(ways: Sequence[int], way: int) -> int:
    """How often the way was taken up."""
    return sum(a != way and b == way for a, b in pairwise(ways))


def test_all_ways_are_tried_the_last_one_first() -> None:
    engine = Engine(Judge(SETTLING))
    ways = engine.run([100, 100, 100], 3 * TRIAL_STEPS + sum(SETTLING))
    assert ways == [2] * (TRIAL_STEPS + 4) + [1] * (TRIAL_STEPS + 1) + [0] * (TRIAL_STEPS + 1)
    about = pytest.approx(100)
    assert engine.judge.rates(1) == [None, about, about]
    assert engine.judge.way(1) == 2
    assert engine.judge.rates(1) == [about, about, about]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_best_way_is_found_and_kept_however_much_steps_differ(best: int, seed: int) -> None:
    engine = Engine(Judge(SETTLING), noise=0.3, seed=seed)
    rates = [100.0, 100.0, 100.0]
    rates[best] = 150.0
    ways = engine.run(rates, 4000)
    assert Counter(ways[1000:])[best] > 0.9 * 3000


@pytest.mark.parametrize("seed", range(4))
def test_what_trials_cost_is_little(seed: int) -> None:
    engine = Engine(Judge(SETTLING), noise=0.1, seed=seed)
    rates = [100, 90, 20]
    ways = engine.run(rates, 20_000)
    assert sum(1 / rates[way] for way in ways) < 1.02 * 20_000 / 100


def test_trials_become_rarer_as_long_as_the_best_stays_the_best() -> None:
    engine = Engine(Judge(SETTLING))
    ways = engine.run([100, 95, 90], 24_000)
    per_third = [trials(ways[start : start + 8000], 1) for start in (0, 8000, 16_000)]
    assert per_third[0] > per_third[1] >= per_third[2] > 0
    rarest = 8000 / (SPELL_STEPS * MAX_INTERVAL)
    assert per_third[2] == pytest.approx(0.95**2 * rarest, abs=2)


def test_who_loses_more_is_tried_more_rarely() -> None:
    engine = Engine(Judge(SETTLING))
    ways = engine.run([50, 90, 100], 80_000)
    ratio = trials(ways, 0) / trials(ways, 1)
    assert ratio == pytest.approx((0.5 / 0.9) ** 2, rel=0.2)


def test_batches_of_other_sizes_are_judged_by_themselves() -> None:
    engine = Engine(Judge(SETTLING))
    for _ in range(40):
        engine.run([100, 50, 50], 50, num_sequences=1)
        engine.run([50, 50, 100], 50, num_sequences=9)
    alone = engine.run([100, 50, 50], 50, num_sequences=1)
    many = engine.run([50, 50, 100], 50, num_sequences=15)
    assert (Counter(alone).most_common(1)[0][0], Counter(many).most_common(1)[0][0]) == (0, 2)
    assert engine.judge.rates(8) == engine.judge.rates(15)
    assert engine.judge.rates(4) == [None, None, None]


@pytest.mark.parametrize("seed", range(4))
def test_it_notices_that_another_way_has_become_better(seed: int) -> None:
    engine = Engine(Judge(SETTLING), noise=0.1, seed=seed)
    engine.run([100, 80, 60], 6000)
    engine.run([100, 80, 200], 3 * SPELL_STEPS * MAX_INTERVAL)
    after = engine.run([100, 80, 200], 500)
    assert Counter(after)[2] > 400


@pytest.mark.parametrize("seed", range(4))
def test_it_notices_at_once_that_the_best_way_has_become_worse(seed: int) -> None:
    engine = Engine(Judge(SETTLING), noise=0.1, seed=seed)
    engine.run([100, 80, 200], 6000)
    engine.run([100, 80, 20], 3 * (SPELL_STEPS + 4))
    after = engine.run([100, 80, 20], 500)
    assert Counter(after)[0] > 350


def test_a_trial_that_is_hopeless_ends_at_once() -> None:
    engine = Engine(Judge(SETTLING))
    ways = engine.run([40, 80, 100], 3 * TRIAL_STEPS + sum(SETTLING), num_sequences=8)
    first = [2] * (TRIAL_STEPS + 4) + [1] * (TRIAL_STEPS + 1) + [0] * (HOPELESS_STEPS + 1)
    assert ways == first + [2] * (TRIAL_STEPS - HOPELESS_STEPS)
    assert engine.judge.rates(8)[0] == pytest.approx(40)


def test_of_one_sequence_a_trial_says_nothing_before_its_end() -> None:
    engine = Engine(Judge(SETTLING))
    engine.run([40, 80, 100], 2 * TRIAL_STEPS + 5)
    assert engine.run([40, 80, 100], TRIAL_STEPS + 1) == [0] * (TRIAL_STEPS + 1)


def test_the_best_way_goes_on_to_the_end_of_its_spell_however_bad_it_has_become() -> None:
    judge = Judge((0, 0))
    for way in (1, 0):
        for _ in range(TRIAL_STEPS):
            assert judge.way(1) == way
            judge.observe(1, way, 1, 0.01)
    for _ in range(SPELL_STEPS):
        assert judge.way(1) == 1
        judge.observe(1, 1, 1, 1.0)
    assert judge.way(1) == 0


def test_a_size_that_is_new_begins_with_what_is_known_of_the_next_one() -> None:
    engine = Engine(Judge(SETTLING))
    engine.run([100, 60, 20], 2000, num_sequences=16)
    fewer = engine.run([100, 60, 20], 4 * SPELL_STEPS, num_sequences=15)
    assert Counter(fewer)[0] == len(fewer)
    engine.run([100, 60, 120], 60 * SPELL_STEPS, num_sequences=15)
    later = engine.run([100, 60, 120], 4 * SPELL_STEPS, num_sequences=15)
    assert Counter(later)[2] > 0.8 * len(later)


@pytest.mark.parametrize("seed", range(4))
def test_a_machine_that_becomes_slower_changes_no_best_way(seed: int) -> None:
    engine = Engine(Judge(SETTLING), noise=0.1, seed=seed)
    engine.run([100, 80, 90], 3000)
    engine.run([50, 40, 45], 3 * SPELL_STEPS)
    after = engine.run([50, 40, 45], 1000)
    assert Counter(after)[0] > 0.85 * 1000


def test_steps_in_which_a_way_settles_do_not_count() -> None:
    judge = Judge((0, 3))
    for _ in range(3):
        judge.observe(1, 1, 1, 100.0)
    for _ in range(TRIAL_STEPS):
        judge.observe(1, 1, 4, 0.01)
    assert judge.way(1) == 0
    assert judge.rates(1) == [None, pytest.approx(400)]


def test_steps_of_another_way_than_the_one_in_use_do_not_count() -> None:
    judge = Judge((0, 0))
    for _ in range(100):
        judge.observe(1, 0, 1, 0.01)
    assert (judge.way(1), judge.rates(1)) == (1, [None, None])


def test_of_one_way_alone_nothing_else_is_tried() -> None:
    assert set(Engine(Judge((2,))).run([100], 1000)) == {0}


STEPS = st.tuples(st.sampled_from([1, 2, 3, 9]), st.sampled_from([0.001, 0.01, 1.0]))


@given(st.integers(1, 3), st.lists(STEPS, max_size=12), st.integers(1, 30))
def test_it_holds_together_whatever_steps_bring(
    num_ways: int, steps: list[tuple[int, float]], num_times: int
) -> None:
    judge = Judge(SETTLING[:num_ways])
    for num_sequences, seconds in steps:
        for _ in range(num_times):
            way = judge.way(num_sequences)
            judge.check_invariants()
            assert 0 <= way < num_ways
            judge.observe(num_sequences, way, num_sequences, seconds)
            judge.check_invariants()

"""What share of drafts is accepted."""

import numpy as np
import pytest

from router.speculation.chances import MAX_BIAS, ChanceTable


def table(*prior: float, memory_tokens: int = 200) -> ChanceTable:
    return ChanceTable(prior, memory_tokens, prior_tokens=20)


def test_it_begins_at_the_prior() -> None:
    assert table(0.25, 0.5).rates.tolist() == [0.25, 0.5]
    assert table(0.25, 0.5).chances([1, 0], 0.0) == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_each_kind_comes_to_its_own_rate(rate: float) -> None:
    chances = table(0.5, 0.5)
    outcomes = np.random.default_rng(0).random(2000) < rate
    for is_accepted in outcomes.tolist():
        chances.learn(0, 0.0, is_accepted=is_accepted)
        chances.check_invariants()
    assert chances.rates[0] == pytest.approx(rate, abs=0.08)
    assert chances.rates[1] == 0.5


def test_a_sequence_that_takes_drafts_better_than_others_is_known_by_its_bias() -> None:
    chances = table(0.5)
    good = bad = 0.0
    for _ in range(30):
        good = chances.learn(0, good, is_accepted=True)
        bad = chances.learn(0, bad, is_accepted=False)
    assert chances.chances([0], good)[0] > 0.85
    assert chances.chances([0], bad)[0] < 0.15
    assert -MAX_BIAS <= bad < 0 < good <= MAX_BIAS


def test_what_is_long_ago_is_forgotten() -> None:
    chances = table(0.5, memory_tokens=50)
    for is_accepted in (True, False):
        for _ in range(300):
            chances.learn(0, 0.0, is_accepted=is_accepted)
    assert chances.rates[0] < 0.01

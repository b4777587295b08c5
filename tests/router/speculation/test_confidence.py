"""Kinds of a draft model's tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.speculation.confidence import NUM_KINDS, PRIOR_RATES, kind_of

CHANCES = st.floats(0, 1)


@given(CHANCES, CHANCES)
def test_the_surer_the_model_the_higher_the_kind(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= kind_of(low) <= kind_of(high) < NUM_KINDS


@pytest.mark.parametrize(("chance", "kind"), [(0.0, 0), (0.1, 1), (0.5, 4), (1.0, 8)])
def test_a_bound_belongs_to_the_kind_above_it(chance: float, kind: int) -> None:
    assert kind_of(chance) == kind


def test_each_kind_is_taken_to_be_accepted_more_often_than_the_one_below() -> None:
    assert len(PRIOR_RATES) == NUM_KINDS
    assert sorted(set(PRIOR_RATES)) == list(PRIOR_RATES)

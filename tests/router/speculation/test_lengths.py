"""How long drafts are to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.speculation.lengths import choose_lengths
from tests.reference.speculation import best_goodput, expected_tokens

CHANCES = st.lists(
    st.lists(st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0]), max_size=3), min_size=1, max_size=4
)
STEP_S = st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12)


@given(chances=CHANCES, growth_s=STEP_S)
def test_no_lengths_bring_more_tokens_a_second(
    chances: list[list[float]], growth_s: list[float]
) -> None:
    def step_s(num_tokens: int) -> float:
        return 1.0 + sum(growth_s[:num_tokens])

    lengths = choose_lengths(chances, step_s, 100)
    goodput = expected_tokens(chances, lengths) / step_s(sum(lengths))
    assert goodput == pytest.approx(best_goodput(chances, step_s))
    assert all(0 <= n <= len(draft) for n, draft in zip(lengths, chances, strict=True))


def test_where_tokens_cost_as_much_as_steps_there_are_none() -> None:
    assert choose_lengths([[0.9, 0.9]], lambda num_tokens: 1.0 + num_tokens, 8) == [0]


def test_a_dear_first_token_is_worth_it_for_those_after_it() -> None:
    def step_s(num_tokens: int) -> float:
        return 1.0 + (0.95 if num_tokens else 0.0)

    assert choose_lengths([[0.9]], step_s, 8) == [0]
    assert choose_lengths([[0.9] * 4], step_s, 8) == [4]


def test_who_is_likelier_gets_the_longer_draft_and_no_more_are_verified_than_allowed() -> None:
    chances = [[0.5] * 8, [0.95] * 8]
    assert choose_lengths(chances, lambda num_tokens: 1.0, 4) == [0, 4]


def test_no_drafts_are_no_lengths() -> None:
    assert choose_lengths([[], []], lambda num_tokens: 1.0, 8) == [0, 0]

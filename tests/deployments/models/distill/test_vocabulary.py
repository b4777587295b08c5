import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.models.distill.vocabulary import (
    coverage,
    from_d2t,
    likeliest,
    rows_of,
    to_d2t,
)
from tests.deployments.models.distill.builders import answer

ID_SETS = st.sets(st.integers(0, 12), min_size=1).map(sorted)


@given(ID_SETS)
def test_a_rows_token_is_the_row_plus_its_d2t(ids: list[int]) -> None:
    d2t = to_d2t(np.array(ids))
    assert [row + int(d2t[row]) for row in range(len(ids))] == ids
    assert (d2t >= 0).all()
    assert (np.diff(d2t) >= 0).all()
    assert from_d2t(d2t).tolist() == ids


@given(ID_SETS)
def test_rows_and_ids_are_inverse_to_each_other(ids: list[int]) -> None:
    rows = rows_of(np.array(ids), 13)
    assert {token: row for token, row in enumerate(rows.tolist()) if row >= 0} == {
        token: row for row, token in enumerate(ids)
    }


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_no_token_left_out_is_likelier_than_one_taken(said: list[list[int]], size: int) -> None:
    answers = [answer([1], tokens, others=(5,)) for tokens in said]
    ids = likeliest(answers, size, num_tokens=6).tolist()
    weights = [1.75 * sum(tokens.count(token) for tokens in said) for token in range(5)]
    weights.append(0.25 * sum(map(len, said)))
    assert ids == sorted(set(ids))
    left_out = [weights[token] for token in range(6) if token not in ids]
    assert len(ids) == size
    assert min(weights[token] for token in ids) >= max(left_out, default=0.0) - 1e-2


def test_a_vocabulary_of_zero_is_all_of_the_targets() -> None:
    assert likeliest([], 0, 4).tolist() == [0, 1, 2, 3]


def test_coverage_is_the_part_of_the_tokens_said_that_can_be() -> None:
    answers = [answer([9], [1, 2, 3]), answer([9], [1])]
    assert coverage(answers, np.array([1, 3])) == 0.75

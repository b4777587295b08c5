import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.models.distill.accepted import acceptance_of, num_accepted

ROWS = st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=6)


def test_what_comes_behind_a_wrong_token_is_not_accepted() -> None:
    proposed = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [9, 2, 3, 4]])
    said = np.array([[1, 2, 9, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    assert num_accepted(proposed, said) == [2, 4, 0]
    acceptance = acceptance_of([2, 4, 0], 4)
    assert acceptance.num_places == 3
    assert acceptance.rates == (0.6667, 1.0, 0.5, 1.0)
    assert acceptance.mean_accepted == 2.0


@given(ROWS, ROWS)
def test_the_mean_is_the_sum_of_the_products_of_the_rates(
    proposed: list[list[int]], said: list[list[int]]
) -> None:
    num_rows = min(len(proposed), len(said))
    accepted = num_accepted(np.array(proposed[:num_rows]), np.array(said[:num_rows]))
    found = acceptance_of(accepted, 3)
    reached = [math.prod(found.rates[: n + 1]) for n in range(3)]
    assert found.mean_accepted == pytest.approx(sum(reached), abs=1e-3)


def test_where_nothing_was_proposed_nothing_was_accepted() -> None:
    found = acceptance_of([], 2)
    assert (found.num_places, found.rates, found.mean_accepted) == (0, (0.0, 0.0), 0.0)

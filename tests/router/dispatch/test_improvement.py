"""The least slow slowest host: against all shares there are, and by example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import dispatch as reference
from tests.router.dispatch.cases import (
    CHEAP_PAIRS,
    NUM_EXPERTS,
    Case,
    case,
    cases,
    shares_of,
)

UNIT = (1.0, 1.0, 0.5)
SLOTS = st.lists(st.integers(0, NUM_EXPERTS - 1), min_size=1, max_size=3, unique=True)


@given(given_case=cases())
@settings(max_examples=200)
def test_the_slowest_host_is_between_the_best_possible_and_longest_first(
    given_case: Case,
) -> None:
    layer, experts = given_case.layer, given_case.experts
    found_s = layer.slowest_s(shares_of(given_case.plan()))
    assert found_s >= reference.best_s(layer, experts) - 1e-9
    greedy = reference.longest_first(layer, experts)
    assert found_s <= layer.slowest_s(greedy) + 1e-9


@given(
    host_slots=st.lists(SLOTS, min_size=1, max_size=4),
    token=st.permutations(range(NUM_EXPERTS)),
)
@settings(max_examples=300)
def test_of_one_token_no_shares_are_better_where_all_hosts_are_alike(
    host_slots: list[list[int]], token: list[int]
) -> None:
    given_case = case(host_slots, [token], UNIT)
    layer = given_case.layer
    found_s = layer.slowest_s(shares_of(given_case.plan()))
    assert found_s == pytest.approx(reference.best_s(layer, token))


def test_a_part_goes_on_where_the_next_host_has_no_room() -> None:
    # The module's example: longest first begins with 2 on b, so 1 comes to a.
    token = [2, 1, 0]
    given_case = case([[0, 1], [1, 2], [2]], [token])
    greedy = reference.longest_first(given_case.layer, token)
    assert given_case.layer.done_s(greedy) == pytest.approx({0: 2.02, 1: 1.01})
    assert given_case.plan().num_experts.tolist() == [1, 1, 1]


def test_parts_are_exchanged_where_to_move_one_does_not_help() -> None:
    # Longest first: 3, 2 and 2 pairs against 3 and 2.
    ids = [[0, 1], [0, 1], [0, 1], [2, 3], [2, 4], [3, 4]]
    given_case = case([[0, 1, 2, 3, 4]] * 2, ids, (0.0, 10.0, 1.0))
    greedy = reference.longest_first(given_case.layer, given_case.experts)
    assert given_case.layer.done_s(greedy) == {0: 37.0, 1: 25.0}
    assert given_case.plan().num_pairs.tolist() == [6, 6]


def test_the_pairs_of_an_expert_stay_together_where_its_weights_are_what_costs() -> None:
    plan = case([[0], [0]], [[0]] * 8, CHEAP_PAIRS).plan()
    assert sorted(plan.num_pairs.tolist()) == [0, 8]


def test_the_pairs_of_an_expert_are_split_where_that_pays() -> None:
    plan = case([[0], [0]], [[0]] * 8, (0.0, 1.0, 1.0)).plan()
    assert plan.num_pairs.tolist() == [4, 4]
    # The last pairs go to the other host, and no token to both.
    assert [parcel.rows.tolist() for parcel in plan.parcels.values()] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_a_slower_host_gets_less() -> None:
    given_case = Case(
        host_slots=[[0], [0]],
        topk_ids=[[0]] * 9,
        costs=[(0.0, 1.0, 1.0), (0.0, 1.0, 2.0)],
        busy_s=[0.0, 0.0],
        is_live=[True, True],
    )
    assert given_case.plan().num_pairs.tolist() == [6, 3]


def test_a_host_that_has_work_from_others_gets_less() -> None:
    plan = case([[0, 1], [0, 1]], [[0, 1]], busy_s=[5.0, 0.0]).plan()
    assert plan.num_experts.tolist() == [0, 2]


def test_a_host_is_not_called_without_need() -> None:
    # Expert 0 is bound to a, 1 and 2 to b; a has time for 3 until b is done.
    plan = case([[0, 3], [1, 2], [3]], [[0, 1, 2, 3]], (1.0, 1.0, 0.0)).plan()
    assert list(plan.parcels) == [0, 1]


@pytest.mark.parametrize("cost", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1e300, 1e-300)])
def test_costs_at_the_edge_do_no_harm(cost: tuple[float, float, float]) -> None:
    given_case = case([[0, 1, 2], [0, 1, 2], [2, 3]], [[0, 1, 2]] * 5, cost)
    plan = given_case.plan()
    assert plan.num_pairs.sum() == 15
    assert not np.any(plan.slots < 0)

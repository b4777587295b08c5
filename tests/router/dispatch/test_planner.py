"""Plans against the slow twin: where pairs go, and what each host is sent."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.settings import PolicyName
from router.dispatch.types import NO_COPY, POLICIES, host_seconds
from tests.reference import dispatch as reference
from tests.router.dispatch.cases import NUM_EXPERTS, Case, case, cases, parcels_of, shares_of

TWINS: dict[PolicyName, Callable[[reference.Layer, Sequence[int]], reference.Shares]] = {
    "token_balance": reference.token_balance,
    "least_loaded": reference.least_loaded,
    "static": reference.static,
}
POLICY = st.sampled_from(POLICIES)


@given(given_case=cases(), policy=POLICY)
def test_a_pair_goes_to_a_live_copy_of_its_expert_if_there_is_one(
    given_case: Case, policy: PolicyName
) -> None:
    layer, plan = given_case.layer, given_case.plan(policy)
    assert plan.slots.shape == given_case.ids.shape
    for expert, slot in zip(given_case.experts, plan.slots.ravel().tolist(), strict=True):
        assert slot in (layer.slots_of(expert) or [NO_COPY])


@given(given_case=cases(), policy=POLICY)
def test_each_host_is_sent_each_of_its_tokens_once_and_all_its_pairs(
    given_case: Case, policy: PolicyName
) -> None:
    plan, expert_map = given_case.plan(policy), given_case.expert_map
    slot_to_host = expert_map.slot_to_host.tolist()
    expected = reference.parcels(plan.slots.tolist(), slot_to_host)
    assert parcels_of(plan, expert_map) == expected
    assert [host for host in plan.parcels if not given_case.is_live[host]] == []
    sent = sorted(pair for p in expected.values() for _, _, pair in p.pairs)
    assert sent == np.flatnonzero(plan.slots.ravel() != NO_COPY).tolist()


@given(given_case=cases(), policy=POLICY)
def test_a_plan_says_what_each_host_has_to_do(given_case: Case, policy: PolicyName) -> None:
    plan, layer = given_case.plan(policy), given_case.layer
    shares = shares_of(plan)
    hosts = [layer.slot_to_host[slot] for slot in shares]
    num_hosts = len(given_case.host_slots)
    assert plan.num_experts.tolist() == [hosts.count(host) for host in range(num_hosts)]
    assert plan.num_pairs.sum() == sum(shares.values())
    done_s = host_seconds(plan, np.array(given_case.costs), np.array(given_case.busy_s))
    expected = layer.done_s(shares)
    assert done_s.tolist() == pytest.approx([expected.get(h, 0.0) for h in range(num_hosts)])


@pytest.mark.parametrize("policy", TWINS)
@given(given_case=cases(max_tokens=4))
def test_a_simple_policy_shares_out_as_its_twin(given_case: Case, policy: PolicyName) -> None:
    expected = TWINS[policy](given_case.layer, given_case.experts)
    assert shares_of(given_case.plan(policy)) == expected


def test_the_worked_example_of_the_nouns() -> None:
    hosts, ids = [[0, 1], [2, 0]], [[0, 2], [0, 2]]
    together = case(hosts, ids, busy_s=[9.0, 0.0]).plan()
    assert together.slots.tolist() == [[3, 2], [3, 2]]
    ((host, parcel),) = together.parcels.items()
    assert host == 1
    assert parcel.rows.tolist() == [0, 1]
    assert parcel.pairs.tolist() == [1, 3, 0, 2]
    assert parcel.pair_slots.tolist() == [0, 0, 1, 1]
    assert parcel.pair_rows.tolist() == [0, 1, 0, 1]
    apart = case(hosts, ids).plan()
    assert [p.rows.tolist() for p in apart.parcels.values()] == [[0, 1], [0, 1]]
    assert apart.num_experts.tolist() == [1, 1]


@pytest.mark.parametrize("policy", POLICIES)
def test_with_one_copy_of_each_expert_all_policies_are_one(policy: PolicyName) -> None:
    plan = case([[2, 0], [1]], [[0, 1], [2, 0], [3, 0]]).plan(policy)
    assert plan.slots.tolist() == [[1, 2], [0, 1], [NO_COPY, 1]]
    first, second = plan.parcels.values()
    assert [array.tolist() for array in first] == [
        [0, 1, 2],
        [1, 0, 1, 2],
        [0, 1, 1, 1],
        [2, 0, 3, 5],
    ]
    assert [array.tolist() for array in second] == [[0], [0], [0], [1]]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_call_without_tokens_sends_nothing(policy: PolicyName) -> None:
    plan = case([[0], [0]], []).plan(policy)
    assert (plan.parcels, plan.slots.shape) == ({}, (0, 1))


def test_there_is_one_copy_of_an_expert_to_choose_on_each_live_host() -> None:
    given_case = case([[0, 1, 0], [0, 1], [2]], [[0]])
    planner = given_case.planner()
    assert [array.tolist() for array in planner.live_copies(0).arrays] == [
        [0, 2, 4, 5, 5, 5],
        [0, 3, 1, 4, 5],
        [0, 1, 0, 1, 2],
        [0, 0, 1, 1, 2],
    ]
    planner.set_live(np.array([False, True, False]))
    assert [array.tolist() for array in planner.live_copies(0).arrays] == [
        [0, 1, 2, 2, 2, 2],
        [3, 4],
        [1, 1],
        [0, 1],
    ]


def test_a_plan_stays_as_it_is_when_others_are_made() -> None:
    given_case = case([[0, 1], [1, 2]], [[0, 1], [1, 2]])
    planner = given_case.planner()
    arguments = (np.array(given_case.costs), np.array(given_case.busy_s))
    plan = planner.plan(0, given_case.ids, *arguments)
    before = plan.memory.tolist()
    planner.plan(0, given_case.ids[:, ::-1].copy(), *arguments)
    assert plan.memory.tolist() == before


def test_an_expert_that_the_layer_does_not_have_is_no_plan() -> None:
    with pytest.raises(AssertionError):
        case([[0]], [[NUM_EXPERTS]]).plan()


def test_ids_of_another_type_are_refused() -> None:
    given_case = case([[0]], [[0]])
    costs, busy_s = np.array(given_case.costs), np.array(given_case.busy_s)
    with pytest.raises(TypeError):
        given_case.planner().plan(0, given_case.ids.astype(np.int64), costs, busy_s)

"""What is sent again when hosts die in the middle of a step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.settings import PolicyName
from router.dispatch.types import NO_COPY, POLICIES
from tests.reference import dispatch as reference
from tests.router.dispatch.cases import Case, case, cases, parcels_of


@given(given_case=cases(), policy=st.sampled_from(POLICIES), data=st.data())
def test_only_the_pairs_of_dead_hosts_go_elsewhere_however_often_hosts_die(
    given_case: Case, policy: PolicyName, data: st.DataObject
) -> None:
    costs, busy_s = np.array(given_case.costs), np.array(given_case.busy_s)
    expert_map, planner = given_case.expert_map, given_case.planner(policy)
    slot_to_host = expert_map.slot_to_host
    plan = planner.plan(0, given_case.ids, costs, busy_s)
    is_live = np.array(given_case.is_live)
    for _ in range(2):
        survives = data.draw(
            st.lists(st.booleans(), min_size=len(is_live), max_size=len(is_live))
        )
        is_live &= survives
        planner.set_live(is_live)
        planner.check_invariants()
        dead = [s for s, host in enumerate(slot_to_host.tolist()) if not is_live[host]]
        was_lost = np.isin(plan.slots, dead)
        before = plan.memory.tolist()
        replanned = planner.replan(plan, 0, given_case.ids, costs, busy_s)
        assert plan.memory.tolist() == before
        assert (replanned.slots == plan.slots)[~was_lost].all()
        again = np.where(was_lost, replanned.slots, NO_COPY)
        expected = reference.parcels(again.tolist(), slot_to_host.tolist())
        assert parcels_of(replanned, expert_map) == expected
        layer = Case(**vars(given_case) | {"is_live": is_live.tolist()}).layer
        for expert, slot in zip(given_case.ids[was_lost], again[was_lost], strict=True):
            assert slot in (layer.slots_of(expert) or [NO_COPY])
        plan = replanned


def test_what_a_host_got_in_this_step_counts_as_work_that_it_has() -> None:
    # Experts 1 and 2 are bound to a, 0 to b; c alone has time for 3, until it dies.
    given_case = case([[1, 2, 3], [0, 3], [3]], [[0, 1, 2, 3]])
    planner, costs = given_case.planner(), np.array(given_case.costs)
    plan = planner.plan(0, given_case.ids, costs, np.array([9.0, 9.0, 0.0]))
    assert plan.slots.tolist() == [[3, 0, 1, 5]]
    planner.set_live(np.array([True, True, False]))
    replanned = planner.replan(plan, 0, given_case.ids, costs, np.zeros(3))
    assert replanned.slots.tolist() == [[3, 0, 1, 4]]
    assert {h: p.pairs.tolist() for h, p in replanned.parcels.items()} == {1: [3]}
    # What is sent again counts as well: both of b's pairs are lost.
    planner.set_live(np.array([True, False, False]))
    second = planner.replan(replanned, 0, given_case.ids, costs, np.zeros(3))
    assert second.slots.tolist() == [[NO_COPY, 0, 1, 2]]
    assert {h: p.pairs.tolist() for h, p in second.parcels.items()} == {0: [3]}


def test_where_nobody_died_nothing_is_sent_again() -> None:
    given_case = case([[0, 1], [1, 2]], [[0, 1], [1, 2]])
    costs, busy_s = np.array(given_case.costs), np.array(given_case.busy_s)
    planner = given_case.planner()
    plan = planner.plan(0, given_case.ids, costs, busy_s)
    replanned = planner.replan(plan, 0, given_case.ids, costs, busy_s)
    assert replanned.parcels == {}
    assert replanned.slots.tolist() == plan.slots.tolist()

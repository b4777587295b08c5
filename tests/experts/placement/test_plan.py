"""Whole plans: what must hold of each, and how near to the best of all they come."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as runs
from hypothesis import strategies as st

from experts.placement.cost import host_times
from experts.placement.hosts import HostSpec, possible_copies
from experts.placement.layout import experts_by_host, with_hosts
from experts.placement.load import Load
from experts.placement.plan import plan
from experts.settings import AlgorithmName, RebalanceSection
from experts.types import EMPTY_SLOT, ExpertMap, HostId
from infra.errors import ConfigError
from tests.experts.placement.builders import (
    expert_map,
    host,
    host_lists,
    hosts,
    load,
    loads,
    maps,
)
from tests.reference.placement import best_slowest

SECTIONS = st.builds(
    RebalanceSection,
    algorithm=st.sampled_from(["cost", "eplb"]),
    min_copies=st.integers(1, 2),
    min_gain_per_move=st.sampled_from([0, 0.002, 0.1]),
    split_tokens=st.sampled_from([1, None]),
)
COST = RebalanceSection()
EPLB = RebalanceSection(algorithm="eplb")


def num_changed(before: ExpertMap, after: ExpertMap) -> int:
    changed = before.physical_to_logical != after.physical_to_logical
    return int((changed & (after.physical_to_logical != EMPTY_SLOT)).sum())


def check(target: ExpertMap, specs: list[HostSpec], min_copies: int) -> None:
    """Coverage on so many hosts, never twice on one, nothing where a host is leaving."""
    target.check_invariants()
    possible = possible_copies(
        [spec.num_usable_slots for spec in specs], target.num_experts, min_copies
    )
    for layer in range(target.num_layers):
        there = experts_by_host(target, layer)
        for spec in specs:
            assert len(set(there[spec.host])) == len(there[spec.host])
            assert not (spec.is_leaving and there[spec.host])
        everywhere = [expert for experts in there.values() for expert in experts]
        for expert in range(target.num_experts):
            assert everywhere.count(expert) >= possible


@given(data=st.data(), specs=host_lists("abcd"), settings=SECTIONS)
def test_each_plan_covers_every_expert_or_says_what_is_missing(
    data: st.DataObject, specs: list[HostSpec], settings: RebalanceSection
) -> None:
    found = data.draw(loads(2, 4))
    before = data.draw(st.one_of(st.none(), maps(data.draw(host_lists("bcde")), 2, 4)))
    if before is not None:
        same_size = dict(zip(before.hosts, np.diff(before.host_to_first_slot), strict=True))
        specs = [replace(s, num_slots=int(same_size.get(s.host, s.num_slots))) for s in specs]
    if possible_copies([spec.num_usable_slots for spec in specs], 4, 1) == 0:
        with pytest.raises(ConfigError, match="expert hosts have room for"):
            plan(found, specs, before, settings)
        return
    target = plan(found, specs, before, settings)
    assert target.hosts == tuple(spec.host for spec in specs)
    assert target.version > (before.version if before else 0)
    check(target, specs, settings.min_copies)


@runs(max_examples=40)
@given(data=st.data(), price=st.sampled_from([0.002, 0.05, 0.3]))
def test_a_layer_moves_no_more_than_its_gain_pays_for(
    data: st.DataObject, price: float
) -> None:
    specs = hosts(2, 2, 2)
    first, then = data.draw(loads(1, 4)), data.draw(loads(1, 4))
    assume(then.activations_per_s.any())
    before = plan(first, specs, None, COST)
    after = plan(then, specs, before, RebalanceSection(min_gain_per_move=price))
    times = [host_times(m, then, specs) for m in (before, after)]
    fall = (times[0].max() - times[1].max()) / times[0].mean()
    assert price * num_changed(before, after) <= fall + 1e-9


@runs(max_examples=40)
@given(data=st.data(), specs=host_lists())
def test_a_plan_for_the_load_it_was_made_for_changes_nothing(
    data: st.DataObject, specs: list[HostSpec]
) -> None:
    found = data.draw(loads(2, 3))
    assume(possible_copies([spec.num_usable_slots for spec in specs], 3, 1))
    target = plan(found, specs, None, COST)
    again = plan(found, specs, target, COST)
    assert num_changed(target, again) == 0


@pytest.mark.parametrize("algorithm", ["cost", "eplb"])
def test_more_experts_than_slots_are_refused(algorithm: AlgorithmName) -> None:
    with pytest.raises(ConfigError, match="at least 3 slots a layer each"):
        plan(load([1] * 5), hosts(2, 2), None, RebalanceSection(algorithm=algorithm))


def test_a_host_that_joins_takes_work_off_the_slowest() -> None:
    a, b = host("a", 2), host("b", 2)
    before = expert_map([a], [0, 1])
    target = plan(load([6, 5]), [a, b], before, COST)
    assert experts_by_host(target, 0)[b.host] != []
    assert host_times(target, load([6, 5]), [a, b]).max() <= 6


def test_a_leaving_hosts_copies_are_placed_elsewhere() -> None:
    a, b = host("a", 3), host("b", 2, is_leaving=True)
    before = expert_map([a, b], [0, 0, EMPTY_SLOT, 1, 2])
    target = plan(load([1, 1, 1]), [a, b], before, COST)
    assert experts_by_host(target, 0) == {"a": [0, 1, 2], "b": []}


def test_two_copies_of_everything_need_another_host_when_one_dies() -> None:
    specs = hosts(4, 4, 4)
    two = RebalanceSection(min_copies=2)
    target = plan(load([1, 2, 3, 4]), specs, None, two)
    for gone in specs:
        left = [spec for spec in specs if spec is not gone]
        assert with_hosts(target, left).is_covering


def test_activations_and_not_tokens_decide_where_they_cost_the_time() -> None:
    # Two experts with many tokens in few steps, two with few tokens in many.
    tokens, activations = np.array([[90.0, 90, 10, 10]]), np.array([[1.0, 1, 10, 10]])
    specs = [HostSpec(HostId(name), 2, 1.0, 0.001) for name in "ab"]
    found = Load(tokens, activations)
    target = plan(found, specs, None, COST)
    assert host_times(target, found, specs)[0].tolist() == pytest.approx([11.1, 11.1])


def test_tokens_alone_decide_for_eplb() -> None:
    found = Load(np.array([[6.0, 4, 3, 2]]), np.array([[1.0, 9, 9, 1]]))
    target = plan(found, [host("a", 2, slow=9), host("b", 2)], None, EPLB)
    assert experts_by_host(target, 0) == {"a": [0, 3], "b": [1, 2]}


def test_an_unknown_load_is_spread_evenly() -> None:
    target = plan(load([0] * 8), hosts(2, 2, 2, 2), None, COST)
    assert [len(experts) for experts in experts_by_host(target, 0).values()] == [2, 2, 2, 2]


@pytest.mark.parametrize("from_nothing", [True, False])
def test_plans_come_near_the_best_of_all_placements(from_nothing: bool) -> None:
    """Ratios of slowest host times over 150 tiny instances, hosts of any speed and size."""
    rng = random.Random(7)
    ratios = []
    for _ in range(150):
        specs = [
            host(name, rng.randint(1, 3), slow=rng.choice([1, 1, 2]))
            for name in "abc"[: rng.randint(2, 3)]
        ]
        if possible_copies([spec.num_slots for spec in specs], 4, 1) == 0:
            continue
        found, other = (load([rng.randint(0, 9) for _ in range(4)]) for _ in range(2))
        before = None if from_nothing else plan(other, specs, None, COST)
        target = plan(found, specs, before, RebalanceSection(min_gain_per_move=0))
        best = best_slowest(found, 0, specs)
        if best > 0:
            ratios.append(host_times(target, found, specs).max() / best)
    print(f"{len(ratios)} instances, mean {np.mean(ratios):.4f}, worst {max(ratios):.3f}")
    assert len(ratios) > 90
    assert min(ratios) > 1 - 1e-9
    assert np.mean(ratios) < 1.01
    assert max(ratios) < 1.15

"""Filter, score, pick: the laws that every policy keeps, and what each one does."""

from typing import get_args

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infra.errors import NoReplicaError
from router.filter import eligible, has_room, room_left_tokens
from router.policies import FALLBACKS, POLICIES
from router.score import kv_pressure, terms_of
from router.settings import CostSection
from router.types import Candidate, KvRoom, Load, PolicyName, RoutedRequest, UsablePrefix
from tests.router.routing import WEIGHTS, A, B, C, candidate, candidates, picked, request

policies = st.sampled_from(sorted(POLICIES))


def test_every_policy_of_the_configuration_is_there_and_its_fallback_too() -> None:
    assert set(POLICIES) == set(get_args(PolicyName))
    assert set(FALLBACKS.values()) <= set(POLICIES) - set(FALLBACKS)


@given(candidates(), policies, st.integers(0, 5))
def test_a_replica_that_is_not_ready_is_never_chosen(
    given_ones: list[Candidate], policy: PolicyName, seed: int
) -> None:
    if all(c.state != "ready" for c in given_ones):
        with pytest.raises(NoReplicaError):
            picked(given_ones, policy, seed=seed)
        return
    assert picked(given_ones, policy, seed=seed).chosen.state == "ready"


@given(candidates(), policies)
def test_a_full_replica_is_chosen_only_where_all_are(
    given_ones: list[Candidate], policy: PolicyName
) -> None:
    ready = [c for c in given_ones if c.state == "ready"]
    assume(ready)
    asked = request(num_expected_tokens=200)
    can_hold = has_room(picked(given_ones, policy, asked).chosen, asked)
    assert can_hold == any(has_room(c, asked) for c in ready)


@given(candidates(), policies)
def test_what_is_chosen_has_the_lowest_score_and_of_equals_the_lowest_count(
    given_ones: list[Candidate], policy: PolicyName
) -> None:
    assume(any(c.state == "ready" for c in given_ones))
    decision = picked(given_ones, policy)
    ranks = [
        (score, c.num_chosen)
        for c, score in zip(decision.candidates, decision.scores, strict=True)
        if score is not None
    ]
    best = given_ones.index(decision.chosen)
    assert (decision.scores[best], decision.chosen.num_chosen) == min(ranks)
    assert len(ranks) == len(eligible(given_ones, decision.request))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6), st.integers(0, 3000))
def test_with_equal_load_the_longest_prefix_wins(prefixes: list[int], queue: int) -> None:
    given_ones = [candidate(prefix=p, queue=queue, running=3) for p in prefixes]
    for policy in ("cost", "prefix"):
        assert picked(given_ones, policy).chosen.prefix.device_tokens == max(prefixes)


def test_before_a_long_queue_a_shorter_prefix_wins() -> None:
    busy, idle = candidate(A, prefix=800, queue=900), candidate(B, prefix=100)
    assert picked([busy, idle]).replica_id == B
    assert picked([busy, idle], "prefix").replica_id == A
    less_busy = candidate(A, prefix=800, queue=600)
    assert picked([less_busy, idle]).replica_id == A


@given(candidates(min_size=2), st.integers(1, 50), st.sampled_from([2, 4, 8]))
def test_what_counts_is_not_the_size_of_tokens(
    given_ones: list[Candidate], num_prompt_tokens: int, factor: int
) -> None:
    """All tokens times a power of two: nothing else is chosen, and the cost grows as much."""
    assume(any(c.state == "ready" for c in given_ones))
    asked = request(num_prompt_tokens)
    larger = request(num_prompt_tokens * factor)
    weights = CostSection(
        **{
            name: value * factor if name.endswith("_tokens") else value
            for name, value in WEIGHTS.model_dump().items()
        }
    )
    scaled = [_scaled(c, factor) for c in given_ones]
    first, second = picked(given_ones, "cost", asked), picked(scaled, "cost", larger, weights)
    assert first.replica_id == second.replica_id
    cost = terms_of(first.chosen, asked, WEIGHTS).cost
    assert terms_of(second.chosen, larger, weights).cost == pytest.approx(cost * factor)


def _scaled(c: Candidate, factor: int) -> Candidate:
    load = Load(
        c.load.queued_prefill_tokens * factor,
        c.load.num_sequences,
        c.load.context_tokens * factor,
    )
    prefix = UsablePrefix(c.prefix.device_tokens * factor, c.prefix.host_tokens * factor)
    kv = c.kv and KvRoom(c.kv.free_tokens * factor, c.kv.total_tokens * factor)
    return msgspec.structs.replace(c, load=load, prefix=prefix, kv=kv)


@given(candidates(), st.integers(1, 500), st.sampled_from(["queue", "sequences", "context"]))
def test_more_load_never_lowers_the_cost(
    given_ones: list[Candidate], more: int, kind: str
) -> None:
    extra = {"queue": Load(more), "sequences": Load(0, more), "context": Load(0, 0, more)}[kind]
    for each in given_ones:
        loaded = msgspec.structs.replace(each, load=each.load.plus(extra))
        before = terms_of(each, request(), WEIGHTS).cost
        assert terms_of(loaded, request(), WEIGHTS).cost > before


@given(candidates(), st.integers(1, 500))
def test_a_longer_prefix_never_raises_the_cost(given_ones: list[Candidate], more: int) -> None:
    for each in given_ones:
        device_tokens = min(1000, each.prefix.device_tokens + more)
        longer = UsablePrefix(device_tokens, each.prefix.host_tokens)
        better = msgspec.structs.replace(each, prefix=longer)
        cost = terms_of(each, request(), WEIGHTS).cost
        assert terms_of(better, request(), WEIGHTS).cost <= cost + 1e-9


def test_a_prefix_in_host_memory_is_worth_less_than_one_on_the_device() -> None:
    on_device, in_host = UsablePrefix(500), UsablePrefix(100, 500)
    costs = [
        terms_of(Candidate(A, prefix=p), request(), WEIGHTS).cost
        for p in (on_device, in_host, UsablePrefix(100))
    ]
    assert costs == [500, 500 + 0.2 * 400, 900]


def test_the_worked_example_of_the_cost() -> None:
    asked = request(2000)
    a = candidate(A, prefix=1600, queue=900, running=4)
    assert terms_of(a, asked, WEIGHTS).cost == 1428
    assert picked([a, candidate(B)], asked=asked).replica_id == A
    busier = candidate(A, prefix=1600, queue=1800, running=4)
    assert picked([busier, candidate(B)], asked=asked).replica_id == B


def test_a_filling_cache_costs_more_from_the_watermark_on() -> None:
    asked = request(100, num_expected_tokens=100)

    def pressure(free: int) -> float:
        return kv_pressure(candidate(kv=KvRoom(free, 1000)), asked, WEIGHTS)

    assert [round(pressure(free)) for free in (1000, 400, 300, 200)] == [0, 0, 1024, 2048]
    assert pressure(100) > pressure(200)


def test_a_cached_prefix_takes_no_room() -> None:
    asked = request(100, num_expected_tokens=50)
    assert room_left_tokens(candidate(kv=KvRoom(200, 1000)), asked) == 50
    assert room_left_tokens(candidate(prefix=90, kv=KvRoom(200, 1000)), asked) == 140
    assert room_left_tokens(candidate(), asked) is None


def test_a_prompt_that_is_being_computed_takes_its_room_once() -> None:
    asked = request(100)
    for num_computed in (0, 300, 600):
        kv, load = KvRoom(1000 - num_computed, 1000), Load(600, 1, 600)
        assert room_left_tokens(Candidate(A, load=load, kv=kv), asked) == 300


def test_an_adapter_that_is_loaded_and_the_session_s_last_replica_are_preferred() -> None:
    with_adapter = candidate(B, queue=500)
    assert picked([candidate(A, has_adapter=False), with_adapter]).replica_id == B
    last = candidate(B, queue=100, is_last_of_session=True)
    assert picked([candidate(A), last]).replica_id == B
    too_busy = candidate(B, queue=200, is_last_of_session=True)
    assert picked([candidate(A), too_busy]).replica_id == A


def test_where_drafts_are_accepted_those_that_decode_weigh_less() -> None:
    slow, quick = candidate(A, running=4), candidate(B, running=6, tokens_per_step=2.0)
    assert picked([slow, quick]).replica_id == B
    assert terms_of(quick, request(), WEIGHTS).sequences == 3 * WEIGHTS.sequence_tokens


def test_the_least_loaded_is_chosen_whatever_its_prefix() -> None:
    given_ones = [
        candidate(A, queue=900, prefix=900),
        candidate(B, running=1),
        candidate(C, queue=65),
    ]
    assert picked(given_ones, "least_loaded").replica_id == B


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_candidates_there_is_no_decision(policy: PolicyName) -> None:
    with pytest.raises(NoReplicaError):
        picked([], policy)


@given(candidates(min_size=3), st.integers(0, 9))
def test_of_two_at_random_the_less_loaded_is_chosen_and_the_same_seed_draws_the_same(
    given_ones: list[Candidate], seed: int
) -> None:
    ready = [msgspec.structs.replace(c, state="ready", kv=None) for c in given_ones]
    decision = picked(ready, "power_of_two", seed=seed)
    drawn = [score for score in decision.scores if score and score[0] < float("inf")]
    assert len(drawn) == 2
    assert decision == picked(ready, "power_of_two", seed=seed)


def test_a_request_that_decodes_nothing_needs_no_room_for_outputs() -> None:
    asked = RoutedRequest(10, num_sequences=0)
    assert room_left_tokens(candidate(kv=KvRoom(10, 10)), asked) == 0

"""Decisions and reservations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import NoReplicaError
from router.ledger import Ledger
from router.pick import SCORES, pick
from router.types import DECODE_LOAD_TOKENS, Candidate, ReplicaId

A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")


def ledger(policy: str = "least_loaded", *replica_ids: ReplicaId) -> Ledger:
    built = Ledger(policy)
    built.set_replicas(replica_ids or (A, B))
    return built


def test_the_replica_with_the_least_load_is_chosen() -> None:
    candidates = [Candidate(A, 900, 0), Candidate(B, 64, 9), Candidate(C, 65, 0)]
    assert pick(candidates, "least_loaded").replica_id == B


def test_among_equals_the_one_chosen_least_often_is_next() -> None:
    candidates = [Candidate(A, 0, 2), Candidate(B, 0, 1)]
    assert pick(candidates, "least_loaded").replica_id == B


@pytest.mark.parametrize("policy", SCORES)
def test_without_candidates_there_is_no_decision(policy: str) -> None:
    with pytest.raises(NoReplicaError):
        pick([], policy)


def test_a_burst_is_spread_because_choosing_charges_at_once() -> None:
    book = ledger()
    with book.reserve(100, 1) as first, book.reserve(100, 1) as second:
        assert {first.decision.replica_id, second.decision.replica_id} == {A, B}


def test_a_long_prompt_weighs_until_its_first_output() -> None:
    book = ledger()
    with book.reserve(1000, 1) as long:
        with book.reserve(10, 1), book.reserve(10, 1) as third:
            assert third.decision.replica_id != long.decision.replica_id
        long.on_first_output()
        assert [c.load_tokens for c in book.candidates()] == [DECODE_LOAD_TOKENS, 0]


def test_a_reservation_ends_with_its_block_even_when_it_raises() -> None:
    book = ledger()
    with pytest.raises(KeyError), book.reserve(5, 1):
        raise KeyError
    book.check_invariants()
    assert [c.load_tokens for c in book.candidates()] == [0, 0]


def test_a_newcomer_is_not_flooded_by_round_robin() -> None:
    book = ledger("round_robin", A)
    for _ in range(50):
        with book.reserve(1, 1):
            book.check_invariants()
    book.set_replicas((A, B))
    chosen = []
    for _ in range(4):
        with book.reserve(1, 1) as reservation:
            chosen.append(reservation.decision.replica_id)
    assert chosen == [A, B, A, B]


@given(
    steps=st.lists(st.tuples(st.sampled_from("oc"), st.integers(0, 3)), max_size=40),
    policy=st.sampled_from(sorted(SCORES)),
)
def test_whatever_is_opened_and_closed_the_load_is_that_of_the_open_ones(
    steps: list[tuple[str, int]], policy: str
) -> None:
    book = ledger(policy, A, B, C)
    held = []
    for action, number in steps:
        if action == "o":
            manager = book.reserve(number, 1)
            held.append((manager, manager.__enter__()))
        elif held:
            manager, _ = held.pop(number % len(held))
            manager.__exit__(None, None, None)
        book.check_invariants()
        total = sum(c.load_tokens for c in book.candidates())
        assert total == sum(r.load_tokens for _, r in held)

"""Reservations: charged at the decision, released as work is done, and adding up."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import NoReplicaError
from router.ledger import Ledger, Reservation
from router.types import Load, LoadReport, PolicyName, ReplicaId, SessionKey, UsablePrefix
from tests.router.routing import A, B, C, all_ready, ledger, request


def loads(book: Ledger, now_s: float = 0) -> dict[ReplicaId, Load]:
    return {c.replica_id: c.load for c in book.candidates(request(), {}, now_s)}


def test_a_burst_is_spread_because_choosing_charges_at_once() -> None:
    book = ledger()
    with book.reserve(request(), {}, 0) as first, book.reserve(request(), {}, 0) as second:
        assert {first.decision.replica_id, second.decision.replica_id} == {A, B}


def test_a_prompt_is_charged_without_what_is_cached_until_its_first_output() -> None:
    book = ledger("cost", A)
    with book.reserve(request(1000), {A: UsablePrefix(600, 700)}, 0) as reservation:
        assert reservation.num_prefill_tokens == 300 + 20
        assert loads(book)[A] == Load(320, 1, 1000)
        reservation.on_output(0, 1, is_finished=False)
        assert loads(book)[A] == Load(0, 1, 1001)
        book.check_invariants()
    assert loads(book)[A] == Load()


def test_the_charge_of_outputs_grows_with_them_and_ends_with_each() -> None:
    book = ledger("cost", A)
    with book.reserve(request(10, num_sequences=2), {}, 0) as reservation:
        for index in (0, 1, 0, 1, 0):
            reservation.on_output(index, 3, is_finished=False)
        assert loads(book)[A] == Load(0, 2, 10 + 15)
        reservation.on_output(0, 1, is_finished=True)
        assert loads(book)[A] == Load(0, 1, 10 + 6)
        reservation.on_output(1, 1, is_finished=True)
        assert loads(book)[A] == Load(0, 0, 10)
        book.check_invariants()


def test_a_reservation_ends_with_its_block_even_when_it_raises() -> None:
    book = ledger()
    with pytest.raises(KeyError), book.reserve(request(), {}, 0):
        raise KeyError
    book.check_invariants()
    assert set(loads(book).values()) == {Load()}


def test_a_newcomer_is_not_flooded_by_round_robin() -> None:
    book = ledger("round_robin", A)
    for _ in range(50):
        with book.reserve(request(1), {}, 0):
            book.check_invariants()
    book.set_replicas(all_ready(A, B))
    chosen = []
    for _ in range(4):
        with book.reserve(request(1), {}, 0) as reservation:
            chosen.append(reservation.decision.replica_id)
    assert chosen == [A, B, A, B]


def test_a_replica_that_is_ready_again_is_not_flooded_either() -> None:
    book = ledger("round_robin", A, B)
    book.set_replicas({A: "ready", B: "away"})
    for _ in range(10):
        with book.reserve(request(1), {}, 0):
            pass
    book.set_replicas(all_ready(A, B))
    counts = {c.replica_id: c.num_chosen for c in book.candidates(request(), {}, 0)}
    assert counts == {A: 10, B: 10}


@pytest.mark.parametrize("state", ["draining", "set_aside", "away"])
def test_without_a_ready_replica_nothing_is_reserved(state: str) -> None:
    book = ledger("cost", A)
    book.set_replicas({A: state})  # type: ignore[dict-item]
    with pytest.raises(NoReplicaError), book.reserve(request(), {}, 0):
        pass
    book.check_invariants()
    assert loads(book) == {A: Load()}


@pytest.mark.parametrize("policy", ["cost", "prefix"])
def test_without_an_index_prompts_are_hashed_and_the_decision_says_so(
    policy: PolicyName,
) -> None:
    book = ledger(policy)
    with book.reserve(request(), None, 0) as reservation:
        assert (reservation.decision.policy, reservation.decision.applied) == (
            policy,
            "consistent_hash",
        )
    with book.reserve(request(), {}, 0) as reservation:
        assert reservation.decision.applied == policy


def test_a_session_stays_with_its_replica_while_that_costs_little() -> None:
    book = ledger("cost", A, B)
    session = SessionKey(5)
    with book.reserve(request(10, session=session), {}, 0) as reservation:
        first = reservation.decision.replica_id
    with book.reserve(request(10, session=session), {}, 0) as reservation:
        assert reservation.decision.replica_id == first
    with book.reserve(request(10), {}, 0) as reservation:
        assert reservation.decision.replica_id != first


def test_an_adapter_is_as_good_as_loaded_once_a_call_for_it_is_on_its_way() -> None:
    book = ledger("cost", A, B)
    with book.reserve(request(10, adapter="x"), {}, 0) as first:
        pass
    with book.reserve(request(10, adapter="x"), {}, 0) as second:
        assert second.decision.replica_id == first.decision.replica_id


def test_others_load_is_the_reported_total_without_ones_own_part() -> None:
    book = ledger("cost", A, B)
    with book.reserve(request(1000), {B: UsablePrefix(900)}, 0):
        report = LoadReport(total=Load(700, 3, 900), own=Load(100, 1, 400))
        book.take_report(B, report, 10.0)
        assert loads(book, 10.0)[B] == Load(100 + 600, 1 + 2, 1000 + 500)


def test_a_report_that_is_too_old_does_not_count() -> None:
    book = ledger("cost", A, report_max_age_s=3)
    book.take_report(A, LoadReport(total=Load(500)), 10.0)
    found = [book.candidates(request(), {}, now_s)[0] for now_s in (12.9, 13.1)]
    assert [(c.load.queued_prefill_tokens, c.is_load_fresh) for c in found] == [
        (500, True),
        (0, False),
    ]


def test_a_link_that_breaks_takes_its_report_with_it() -> None:
    book = ledger("cost", A)
    book.take_report(A, LoadReport(total=Load(500), adapters=("x",)), 0)
    book.forget_report(A)
    (found,) = book.candidates(request(adapter="x"), {}, 0)
    assert (found.load, found.has_adapter, found.is_load_fresh) == (Load(), False, False)


def test_a_report_of_a_replica_that_has_left_is_not_listened_to() -> None:
    book = ledger("cost", A)
    book.take_report(C, LoadReport(total=Load(500)), 0)
    book.forget_report(C)
    assert set(loads(book)) == {A}


steps = st.lists(st.tuples(st.sampled_from("oodddecs"), st.integers(0, 5)), max_size=60)


@given(steps, st.sampled_from(["cost", "least_loaded", "round_robin", "consistent_hash"]))
def test_whatever_happens_the_load_is_that_of_the_open_reservations(
    given_steps: list[tuple[str, int]], policy: PolicyName
) -> None:
    """o: open, d: an output grows, e: an output ends, c: close, s: a replica leaves or
    comes back."""
    book = ledger(policy, A, B, C)
    with ExitStack() as closing:
        held: list[tuple[ExitStack, Reservation]] = []
        for action, number in given_steps:
            if action == "o":
                stack = closing.enter_context(ExitStack())
                asked = request(number, num_sequences=number)
                held.append((stack, stack.enter_context(book.reserve(asked, {}, 0))))
            elif action == "s":
                book.set_replicas(all_ready(*(A, B, C)[: 1 + number % 3]))
            elif held and action == "c":
                held.pop(number % len(held))[0].close()
            elif held:
                _, reservation = held[number % len(held)]
                reservation.on_output(number, 2, is_finished=action == "e")
            book.check_invariants()
            here = loads(book)
            open_here = [r.load for _, r in held if r.decision.replica_id in here]
            assert sum(x.num_sequences for x in here.values()) <= sum(
                x.num_sequences for x in open_here
            )
    book.check_invariants()
    assert set(loads(book).values()) <= {Load()}

"""What is kept of decisions, for how long, and what is said of them."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deployments.gateway.decision_log import DecisionLog
from router.explanation import Explanation
from router.settings import CostSection
from router.types import Decision, KvRoom
from tests.router.routing import A, B, C, candidate, picked, request


def log(max_requests: int = 3) -> DecisionLog:
    return DecisionLog("m", max_requests, CostSection(), now_s=lambda: 1000.5)


def decision(num_candidates: int = 1) -> Decision:
    return picked([candidate(r) for r in (A, B, C)[:num_candidates]])


def test_calls_of_one_request_are_explained_in_their_order() -> None:
    kept = log()
    kept.add("r-00000001", decision(1))
    kept.add("r-00000002", decision(2))
    kept.add("s-00000003", decision(1))
    assert [len(call.rows) for call in kept.explain("r")] == [1, 2]
    assert len(kept.explain("s")) == 1


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 3))
def test_the_latest_requests_are_kept_and_no_more(ids: list[int], max_requests: int) -> None:
    kept = log(max_requests)
    for number in ids:
        kept.add(f"r{number}-00000000", decision(3))
        kept.check_invariants()
    assert sum(kept.counts.decisions.values()) == len(ids)
    if ids and max_requests:
        newest = next(n for n in reversed(ids) if kept.explain(f"r{n}"))
        assert kept.explain(f"r{newest}")


def test_many_candidates_count_more() -> None:
    kept = log(max_requests=2)
    many = picked([candidate(A)] * 60)
    for number in range(2):
        kept.add(f"r{number}-00000000", many)
        kept.check_invariants()
    assert [len(kept.explain(f"r{n}")) for n in range(2)] == [0, 1]


def test_what_was_misjudged_is_counted_both_ways() -> None:
    kept = log()
    for found in (100, 40, 130):
        call = kept.add("r-00000001", picked([candidate(prefix=100)]))
        kept.note_cached(call, found)
    counts = kept.counts
    assert counts.num_expected_cached_tokens == 300
    assert (counts.num_missed_tokens, counts.num_unexpected_tokens) == (60, 30)


def test_an_explanation_travels_as_plain_values() -> None:
    kept = log()
    asked = request(100, num_expected_tokens=50)
    given_ones = [
        candidate(A, queue=5),
        candidate(B, kv=KvRoom(10, 1000)),
        candidate(C, state="draining"),
    ]
    kept.add("r-00000001", picked(given_ones, "power_of_two", asked))
    (told,) = kept.explain("r")
    plain = msgspec.to_builtins(told)
    assert msgspec.convert(plain, Explanation) == told
    assert [(row["candidate"]["replica_id"], row["outcome"]) for row in plain["rows"]] == [
        ("a", "chosen"),
        ("c", "draining"),
        ("b", "full"),
    ]
    assert plain["decided_at_s"] == 1000.5

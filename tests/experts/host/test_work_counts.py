"""Counters of a host, as a table and as one sees them in intervals."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experts.host.work_counts import Totals, WorkCounts


@given(
    st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 2), min_size=1, max_size=4)))
)
def test_each_pair_is_a_token_and_each_expert_of_a_request_an_activation(
    requests: list[tuple[int, list[int]]],
) -> None:
    counts = WorkCounts(2, 3, now_s=0.0)
    tokens, activations = np.zeros((2, 3), int), np.zeros((2, 3), int)
    for layer, experts in requests:
        assert counts.computed(layer, np.array(experts, np.int16)) == len(set(experts))
        for expert in experts:
            tokens[layer, expert] += 1
        for expert in set(experts):
            activations[layer, expert] += 1
        counts.check_invariants()
    found = counts.counters()
    assert [array.tolist() for array in found] == [tokens.tolist(), activations.tolist()]


def test_each_reader_sees_its_own_interval() -> None:
    counts = WorkCounts(1, 1, now_s=10.0)
    counts.called(0.5)
    counts.answered(0.1)
    first = counts.totals(12.0)
    counts.called(1.0)
    counts.answered(0.2)
    counts.answered(0.4)
    second = counts.totals(14.0)
    assert first == Totals(12.0, 0.5, 0.1, 1)
    assert (first.queue_s_since(counts.began), first.busy_share_since(counts.began)) == (
        0.1,
        0.25,
    )
    assert round(second.queue_s_since(first), 9) == 0.3
    assert (second.busy_share_since(first), second.busy_share_since(counts.began)) == (
        0.5,
        0.375,
    )


def test_an_interval_of_nothing_has_no_wait_and_no_work() -> None:
    counts = WorkCounts(1, 1, now_s=3.0)
    assert counts.began.queue_s_since(counts.began) == 0.0
    assert counts.began.busy_share_since(counts.began) == 0.0
    assert counts.totals(4.0).busy_share_since(counts.began) == 0.0

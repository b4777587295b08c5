"""What was sent a moment ago counts as cached, and not for long."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cache.expected import ExpectedPrefixes
from cache.types import BlockGroup, Hashes

KEEP_S = 5.0
FULL = BlockGroup("full", 4)
WINDOW = BlockGroup("sliding_window", 4, window_tokens=8)


def blocks(*hashes: int) -> Hashes:
    return np.array(hashes, np.uint64)


def test_a_shared_beginning_is_expected_where_it_was_sent() -> None:
    expected = ExpectedPrefixes([FULL], KEEP_S)
    expected.expect("e1", [blocks(1, 2, 3, 4)], now_s=0)
    assert expected.usable([blocks(1, 2, 3, 9)], now_s=1) == {"e1": 12}
    assert expected.usable([blocks(9, 2, 3, 4)], now_s=1) == {}


def test_it_is_forgotten_after_one_to_two_times_as_long_as_it_is_to_be_kept() -> None:
    expected = ExpectedPrefixes([FULL], KEEP_S)
    expected.expect("e1", [blocks(1, 2)], now_s=100)
    expected.expect("e2", [blocks(1)], now_s=104)
    assert expected.usable([blocks(1, 2)], now_s=104.9) == {"e1": 8, "e2": 4}
    assert expected.usable([blocks(1, 2)], now_s=106) == {"e1": 8, "e2": 4}
    expected.expect("e2", [blocks(1, 2)], now_s=107)
    assert expected.usable([blocks(1, 2)], now_s=107) == {"e1": 8, "e2": 8}
    assert expected.usable([blocks(1, 2)], now_s=111.5) == {"e2": 8}
    assert expected.usable([blocks(1, 2)], now_s=140) == {}
    assert expected.num_bytes < 1000


def test_all_groups_must_have_it() -> None:
    expected = ExpectedPrefixes([FULL, WINDOW], KEEP_S)
    expected.expect("e1", [blocks(1, 2, 3), blocks(11, 12, 13)], now_s=0)
    assert expected.usable([blocks(1, 2, 3), blocks(11, 12, 13)], now_s=0) == {"e1": 12}
    assert expected.usable([blocks(1, 2, 3), blocks(11, 12, 14)], now_s=0) == {"e1": 8}


def test_there_may_be_more_replicas_than_bits_in_a_word() -> None:
    expected = ExpectedPrefixes([FULL], KEEP_S)
    for number in range(200):
        expected.expect(f"e{number}", [blocks(1, 2 + number)], now_s=0)
    found = expected.usable([blocks(1, 150)], now_s=0)
    assert found == {f"e{n}": 8 if n == 148 else 4 for n in range(200)}


@given(
    st.lists(
        st.tuples(
            st.floats(0, 4),
            st.sampled_from(["e0", "e1", "e2"]),
            st.lists(st.integers(1, 3), min_size=1, max_size=4),
        ),
        max_size=20,
    ),
    st.lists(st.integers(1, 3), max_size=4),
)
def test_what_is_kept_for_sure_is_found_and_what_is_too_old_is_not(
    sent: list[tuple[float, str, list[int]]], asked: list[int]
) -> None:
    def chained(words: list[int]) -> Hashes:
        return blocks(*(hash((1, *words[: i + 1])) % 2**63 + 1 for i in range(len(words))))

    def shared(words: list[int]) -> int:
        equal = [a == b for a, b in zip(words, asked, strict=False)]
        return FULL.block_size * (equal.index(False) if False in equal else len(equal))

    expected, now_s = ExpectedPrefixes([FULL], KEEP_S), 0.0
    times = []
    for pause_s, replica_id, words in sent:
        now_s += pause_s
        expected.expect(replica_id, [chained(words)], now_s)
        times.append(now_s)
    found = expected.usable([chained(asked)], now_s)
    for replica_id in ("e0", "e1", "e2"):
        ages = [
            (now_s - at_s, shared(words))
            for at_s, (_, r, words) in zip(times, sent, strict=True)
            if r == replica_id
        ]
        least = max((n for age_s, n in ages if age_s < KEEP_S), default=0)
        most = max((n for age_s, n in ages if age_s < 2 * KEEP_S), default=0)
        assert least <= found.get(replica_id, 0) <= most

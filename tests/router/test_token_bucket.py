"""Rates, with debt for what is known only afterwards."""

from hypothesis import given
from hypothesis import strategies as st

from router.token_bucket import TokenBucket


def test_a_full_bucket_gives_its_capacity_at_once_and_then_makes_wait() -> None:
    bucket = TokenBucket(rate_per_s=10, capacity=100)
    assert bucket.wait_s(100, now_s=0) == 0
    bucket.take(100, now_s=0)
    assert bucket.wait_s(50, now_s=0) == 5
    assert bucket.wait_s(50, now_s=3) == 2


def test_a_debt_is_worked_off_first() -> None:
    bucket = TokenBucket(rate_per_s=10, capacity=100)
    bucket.take(150, now_s=0)
    assert bucket.level(now_s=0) == -50
    assert bucket.wait_s(1, now_s=0) == 5.1


def test_more_than_the_bucket_holds_waits_for_a_full_one() -> None:
    bucket = TokenBucket(rate_per_s=10, capacity=100)
    assert bucket.wait_s(1000, now_s=0) == 0
    bucket.take(100, now_s=0)
    assert bucket.wait_s(1000, now_s=0) == 10


def test_a_clock_that_stands_still_refills_nothing() -> None:
    bucket = TokenBucket(rate_per_s=10, capacity=100)
    bucket.take(100, now_s=5)
    assert [bucket.level(now_s=5), bucket.level(now_s=4)] == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40))))
def test_what_is_begun_is_bounded_by_rate_and_capacity(
    steps: list[tuple[int, int]],
) -> None:
    bucket = TokenBucket(rate_per_s=3, capacity=60)
    now_s = begun = 0
    for pause_s, amount in steps:
        now_s += pause_s
        if bucket.wait_s(amount, now_s) == 0:
            bucket.take(amount, now_s)
            begun += amount
        bucket.check_invariants()
        assert begun <= 3 * now_s + 60


@given(st.integers(1, 200), st.integers(0, 200))
def test_after_the_wait_that_is_named_the_amount_is_there(amount: int, taken: int) -> None:
    bucket = TokenBucket(rate_per_s=4, capacity=100)
    bucket.take(taken, now_s=0)
    assert bucket.wait_s(amount, bucket.wait_s(amount, 0)) < 1e-9

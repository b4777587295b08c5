"""When a request is sent again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.batch.retry import Retry, parse_retry_after


def test_the_waits_double_up_to_a_minute() -> None:
    waits = [Retry(9).delay_s(attempt, None, chance=0.0) for attempt in range(1, 11)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, None]


@pytest.mark.parametrize(
    ("max_retries", "lasts_s"), [(0, 0.0), (3, 3.5), (16, 600.0), (10**9, 600.0)]
)
def test_the_retries_of_a_request_last_as_long_as_its_waits(
    max_retries: int, lasts_s: float
) -> None:
    assert Retry(max_retries).lasts_s(at_most_s=600.0) == lasts_s


def test_without_retries_the_first_failure_counts() -> None:
    assert Retry(0).delay_s(1, None, 0.5) is None


@given(
    attempt=st.integers(1, 10_000),
    advised_s=st.none() | st.floats(0, 3600),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_never_shorter_than_advised_and_never_endless(
    attempt: int, advised_s: float | None, chance: float
) -> None:
    delay_s = Retry(10_000).delay_s(attempt, advised_s, chance)
    assert delay_s is not None
    assert (advised_s or 0.25) <= delay_s or delay_s >= 0.25
    assert delay_s >= (advised_s or 0.0)
    assert delay_s <= max(60.0, 1.5 * (advised_s or 0.0))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        ("0.25", 0.25),
        ("-1", 0.0),
        ("99999999", 3600.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now_s=1000.0) == seconds

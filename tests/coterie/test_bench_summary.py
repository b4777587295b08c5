"""From the times of pieces to samples, and from samples to a summary."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.benchmark.summary import Slo, Spread, meets, percentile, spread_of, summarize
from coterie.benchmark.timeline import Timeline
from coterie.benchmark.types import Counts, Failure, Piece, PlannedRequest, Sample
from coterie.cli.bench_report import show_lateness

REQUEST = PlannedRequest(0, 2, prompt="a")
VALUES = st.lists(st.floats(0, 10), min_size=2, max_size=40)


def sample(
    *,
    sent_s: float = 0.0,
    late_s: float = 0.0,
    ttft_s: float | None = 0.5,
    tpot_s: float | None = 0.25,
    num_output_tokens: int = 3,
    failure: str = "",
) -> Sample:
    return Sample(
        index=0,
        sent_s=sent_s,
        late_s=late_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        e2e_s=1.0,
        itl_s=(0.125, 0.375),
        num_prompt_tokens=7,
        num_output_tokens=num_output_tokens,
        num_cached_tokens=2,
        has_counts=True,
        failure=Failure(failure, "told") if failure else None,
    )


def test_pieces_become_a_sample_as_the_definitions_say() -> None:
    timeline = Timeline(PlannedRequest(4, 3, prompt="a", at_s=1.5), start_s=8.0, sent_s=10.0)
    for now_s in (10.5, 10.625, 11.0):
        timeline.add(Piece(has_output=True), now_s)
    timeline.add(Piece(has_output=False, counts=Counts(9, 3, 1)), 11.5)
    assert timeline.sample(12.0) == Sample(
        index=4,
        sent_s=2.0,
        late_s=0.5,
        ttft_s=0.5,
        tpot_s=0.25,
        e2e_s=1.0,
        itl_s=(0.125, 0.375),
        num_prompt_tokens=9,
        num_output_tokens=3,
        num_cached_tokens=1,
        has_counts=True,
    )


def test_without_the_servers_counts_each_piece_is_a_token() -> None:
    timeline = Timeline(REQUEST, start_s=0.0, sent_s=0.0)
    timeline.add(Piece(has_output=True), 1.0)
    timeline.add(Piece(has_output=True), 2.0)
    measured = timeline.sample(2.0)
    assert (measured.num_output_tokens, measured.has_counts) == (2, False)


def test_a_request_without_output_has_no_first_token() -> None:
    measured = Timeline(REQUEST, start_s=0.0, sent_s=1.0).sample(4.0)
    assert (measured.ttft_s, measured.tpot_s, measured.e2e_s) == (None, None, 3.0)


def test_a_failed_request_lasts_until_its_failure() -> None:
    timeline = Timeline(REQUEST, start_s=0.0, sent_s=0.0)
    timeline.add(Piece(has_output=True), 1.0)
    failure = Failure("engine_failed", "it died")
    assert timeline.sample(3.0, failure).e2e_s == 3.0


def test_a_summary_counts_successes_and_lists_failures() -> None:
    measured = [
        sample(),
        sample(sent_s=1.0, ttft_s=1.5),
        sample(sent_s=2.0, failure="overloaded"),
        sample(sent_s=3.0, failure="overloaded"),
        sample(sent_s=3.0, failure="internal"),
    ]
    found = summarize(measured, Slo(ttft_s=1.0))
    assert (found.num_requests, found.num_failed, found.duration_s) == (5, 3, 4.0)
    assert (found.num_prompt_tokens, found.num_output_tokens) == (14, 6)
    assert (found.requests_per_s, found.output_tokens_per_s) == (0.5, 1.5)
    assert found.goodput_requests_per_s == 0.25
    assert found.errors == {"overloaded": 2, "internal": 1}
    assert found.ttft_s == Spread(mean=1.0, median=1.0, p90=1.4, p99=1.49, max=1.5)
    assert found.itl_s == pytest.approx(spread_of([0.125, 0.375] * 2))


def test_a_summary_of_nothing_is_zeros() -> None:
    found = summarize([], Slo())
    assert (found.num_requests, found.requests_per_s, found.ttft_s) == (0, 0.0, None)


def test_a_client_that_fell_behind_the_arrivals_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_lateness(summarize([sample(late_s=0.01), sample(late_s=0.05)], Slo()))
    assert capsys.readouterr().err == ""
    show_lateness(summarize([sample(late_s=0.01), sample(late_s=2.5)], Slo()))
    assert "up to 2.50 s after their arrival" in capsys.readouterr().err


def test_without_an_slo_there_is_no_goodput() -> None:
    assert summarize([sample()], Slo()).goodput_requests_per_s is None


@pytest.mark.parametrize(
    ("measured", "is_met"),
    [
        (sample(), True),
        (sample(ttft_s=0.6), False),
        (sample(tpot_s=0.3), False),
        (sample(tpot_s=None), True),
        (sample(ttft_s=None, tpot_s=None), False),
        (sample(failure="internal"), False),
    ],
)
def test_an_slo_is_met_by_early_and_steady_answers(measured: Sample, is_met: bool) -> None:
    assert meets(measured, Slo(ttft_s=0.5, tpot_s=0.25)) is is_met


@given(VALUES)
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    ordered = sorted(values)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive")
    found = [percentile(ordered, percent) for percent in range(1, 100)]
    assert found == pytest.approx(cuts)
    assert (percentile(ordered, 0), percentile(ordered, 100)) == (ordered[0], ordered[-1])


@given(VALUES)
def test_a_spread_ascends(values: list[float]) -> None:
    found = spread_of(values)
    assert found is not None
    assert found.median <= found.p90 <= found.p99 <= found.max == max(values)

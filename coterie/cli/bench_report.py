"""The table of `coterie bench`."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from coterie.benchmark.summary import Spread, Summary
from coterie.benchmark.types import Sample
from coterie.cli.console import err, out

_TIMES = (
    ("TTFT, ms", "ttft_s"),
    ("TPOT, ms", "tpot_s"),
    ("ITL, ms", "itl_s"),
    ("E2E, ms", "e2e_s"),
)
_MAX_LATE_S = 0.1


def show(summary: Summary) -> None:
    """Totals and times, to standard output."""
    totals = Table(box=None, show_header=False)
    for row in _totals(summary):
        totals.add_row(*row)
    out().print(totals)
    if summary.num_failed < summary.num_requests:
        out().print(_times(summary))


def _totals(summary: Summary) -> Iterator[tuple[str, str]]:
    failed = f", {summary.num_failed} failed" if summary.num_failed else ""
    yield "requests", f"{summary.num_requests} in {summary.duration_s:.2f} s{failed}"
    cached = f" ({summary.num_cached_tokens} cached)" if summary.num_cached_tokens else ""
    yield "prompt tokens", f"{summary.num_prompt_tokens}{cached}"
    yield "output tokens", str(summary.num_output_tokens)
    yield "requests/s", f"{summary.requests_per_s:.2f}"
    yield "output tokens/s", f"{summary.output_tokens_per_s:.1f}"
    if summary.goodput_requests_per_s is not None:
        yield "goodput, requests/s", f"{summary.goodput_requests_per_s:.2f}"


def _times(summary: Summary) -> Table:
    table = Table("", box=None)
    for heading in ("mean", "median", "p90", "p99", "max"):
        table.add_column(heading, justify="right")
    for label, name in _TIMES:
        spread: Spread | None = getattr(summary, name)
        if spread is not None:
            values = (spread.mean, spread.median, spread.p90, spread.p99, spread.max)
            table.add_row(label, *(f"{value * 1000:.1f}" for value in values))
    return table


def show_lateness(summary: Summary) -> None:
    """A warning, to standard error, where the client could not keep up."""
    if summary.max_late_s > _MAX_LATE_S:
        err().print(
            f"warning: requests were sent up to {summary.max_late_s:.2f} s after their "
            "arrival; this client, not the server, may be the limit",
        )


def show_failures(summary: Summary, samples: Sequence[Sample]) -> None:
    """How many failed of each kind, with the first one's message, to standard error."""
    failures = [sample.failure for sample in samples if sample.failure]
    for kind, count in summary.errors.items():
        message = next(failure.message for failure in failures if failure.kind == kind)
        err().print(f"{count} x {kind}: {message}")

"""How far a batch is, on a terminal; and what came of it."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from coterie.batch.concurrency import Concurrency
from coterie.batch.tally import Tally
from coterie.batch.types import Outcome
from coterie.batch.waiting import Waiting
from coterie.cli import console


class _Bar(Progress):
    """With a line for what is waited for, drawn anew also while no outcome comes."""

    def __init__(self, waiting: Waiting, *columns: ProgressColumn, **options: Any) -> None:
        self._waiting = waiting
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress.get_renderables`."""
        yield from super().get_renderables()
        if waiting := str(self._waiting):
            yield Text(waiting, style="yellow", overflow="ellipsis", no_wrap=True)


class BatchProgress:
    """A bar on standard error where that is a terminal; it keeps the tally's time."""

    def __init__(self, tally: Tally, concurrency: Concurrency, waiting: Waiting) -> None:
        self._tally = tally
        self._concurrency = concurrency
        self._started_s = time.monotonic()
        stderr = console.err()
        self._bar = _Bar(
            waiting,
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=tally.num_requests, completed=tally.num_before
        )

    def add(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        tally = self._tally
        tally.add(outcome)
        tally.duration_s = time.monotonic() - self._started_s
        if not self._bar.disable:
            self._bar.update(self._task, advance=1, description=self._course())

    def _course(self) -> str:
        tally = self._tally
        failed = f"[red]{tally.num_failed} failed[/] " if tally.num_failed else ""
        return f"{failed}{tally.tokens_per_s:.0f} tokens/s, {self._concurrency.limit} at a time"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


def show_tally(tally: Tally, *, is_json: bool) -> None:
    """One line of totals to standard output, of failures to standard error."""
    if is_json:
        told = asdict(tally) | {"num_left": tally.num_left}
        console.print_json(told | {"tokens_per_s": tally.tokens_per_s})
    else:
        before = f" ({tally.num_before} before)" if tally.num_before else ""
        left = f", {tally.num_left} left" if tally.num_left else ""
        console.out().print(
            f"{tally.num_requests} requests: {tally.num_ok} served, "
            f"{tally.num_failed} failed{left}{before}; {tally.num_tokens} tokens in "
            f"{tally.duration_s:.1f} s, {tally.tokens_per_s:.1f} a second",
        )
    if tally.errors:
        told_errors = ", ".join(f"{n} x {word}" for word, n in sorted(tally.errors.items()))
        console.err().print(f"failed: {told_errors}")

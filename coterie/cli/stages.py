"""Long work shown stage by stage: what is being done, and how long each took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.status import Status
from rich.text import Text

from coterie.cli.console import err


class Stages:
    """Prints a line on standard error for each stage that ends.

    On a terminal a spinner tells what is going on meanwhile; elsewhere only
    the lines appear. `quiet` keeps everything silent. It is a `Progress`.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.durations_s: dict[str, float] = {}
        self._console = err()
        self._quiet = quiet
        self._status: Status | None = None

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """One stage; if the block raises, its line is not printed."""
        started = time.monotonic()
        is_shown = not self._quiet and self._console.is_terminal
        self._status = self._console.status(Text(title)) if is_shown else None
        if self._status:
            self._status.start()
        try:
            yield
        finally:
            if self._status:
                self._status.stop()
                self._status = None
        duration_s = time.monotonic() - started
        self.durations_s[title] = round(duration_s, 2)
        if not self._quiet:
            self._console.print(Text.assemble(f"  {title}  ", (f"{duration_s:.1f} s", "dim")))

    def report(self, stage: str, fraction: float | None = None) -> None:
        """Say what the stage is at: the spinner's text on a terminal."""
        if self._status:
            done = "" if fraction is None else f" {fraction:.0%}"
            self._status.update(Text(f"{stage}{done}"))

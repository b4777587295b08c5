"""How work that takes seconds or minutes says how far it is."""

import logging
from typing import Protocol


class Progress(Protocol):
    """Listens to one piece of work; called from the thread that does it."""

    def report(self, stage: str, fraction: float | None = None) -> None:
        """Say what is being done.

        `stage` is a short phrase for people. `fraction` in [0, 1] is the part
        of this stage that is done, None where that is not known. Must return
        at once and never raise: it is called many times a second.
        """


class SilentProgress:
    """Says nothing."""

    def report(self, stage: str, fraction: float | None = None) -> None:
        """Do nothing."""


class LoggingProgress:
    """Logs each stage when it begins, and then at every `step` of its fraction."""

    def __init__(self, logger: logging.Logger, step: float = 0.25) -> None:
        self._logger = logger
        self._step = step
        self._stage: str | None = None
        self._next_fraction = 0.0

    def report(self, stage: str, fraction: float | None = None) -> None:
        """Log at level INFO, with fields `stage` and `fraction`."""
        if stage != self._stage:
            self._stage, self._next_fraction = stage, self._step
        elif fraction is None or fraction < self._next_fraction:
            return
        else:
            self._next_fraction = fraction + self._step
        done = "" if fraction is None else f" {fraction:.0%}"
        fields = {"stage": stage, "fraction": fraction}
        self._logger.info("%s%s", stage, done, extra=fields)


SILENT = SilentProgress()

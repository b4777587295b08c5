"""When a request is sent again: pure, the chance is an argument.

| the attempt ended with                    | sent again                       |
|-------------------------------------------|----------------------------------|
| no room (408, 429, 502, 503), no answer   | up to `max_retries` times        |
| a failed engine, by the server's own word | once in a run: see below         |
| the deadline of this side                 | never: it would take as long     |
| anything else                             | never: the answer is final       |

A request that ends an engine takes its neighbours along. They deserve another try; the
culprit must not end an engine more at each. `coterie.retry`, which has one person's
request in hand, leaves even that one to the caller.
"""

import math
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from coterie.batch.types import Answer, Fault, is_final
from coterie.errors import DeadlineError, EngineError

_FIRST_S = 0.5
_MAX_S = 60.0
_SPREAD = 0.5
_MAX_ADVICE_S = 3600.0
_MAX_ENGINE_FAILURES = 2


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a request is sent again before it counts as failed."""

    max_retries: int

    def delay_s(self, attempt: int, retry_after_s: float | None, chance: float) -> float | None:
        """Seconds until the next attempt; None where there is none.

        `attempt` counts the failed ones from 1; `chance` in [0, 1) spreads requests
        that failed together. Without advice the waits double: 0.5, 1, 2 s, and so on up
        to 60, each shortened by up to a half. The server's advice is never fallen short
        of, and exceeded by up to a half.
        """
        if attempt > self.max_retries:
            return None
        own_s = _wait_s(attempt) * (1 - _SPREAD * chance)
        advised_s = (retry_after_s or 0.0) * (1 + _SPREAD * chance)
        return max(own_s, advised_s)

    def lasts_s(self, at_most_s: float) -> float:
        """Seconds that the waits of one request take at most without advice, counted up to
        `at_most_s`."""
        lasted_s = 0.0
        for attempt in range(1, self.max_retries + 1):
            lasted_s += _wait_s(attempt)
            if lasted_s >= at_most_s:
                return at_most_s
        return lasted_s


class Attempts:
    """The failed attempts of one request in this run."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._num_failed = 0
        self._num_engine_failures = 0

    def next_delay_s(self, found: Answer | Fault, chance: float) -> float | None:
        """Count how the attempt ended; seconds until the next, None where there is none."""
        if isinstance(found, Fault):
            if found.code == DeadlineError.kind:
                return None
        elif is_final(found.status):
            return None
        self._num_failed += 1
        self._num_engine_failures += found.code == EngineError.kind
        if self._num_engine_failures >= _MAX_ENGINE_FAILURES:
            return None
        advised_s = found.retry_after_s if isinstance(found, Answer) else None
        return self._retry.delay_s(self._num_failed, advised_s, chance)


def _wait_s(attempt: int) -> float:
    return min(_FIRST_S * 2.0 ** min(attempt - 1, 16), _MAX_S)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as a date.

    `now_s` is the time since the epoch. At most an hour; None where there is no header,
    or nonsense.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MAX_ADVICE_S) if math.isfinite(seconds) else None

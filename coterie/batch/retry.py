"""When a request is sent again: pure, the chance is an argument."""

import math
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

_FIRST_S = 0.5
_MAX_S = 60.0
_SPREAD = 0.5
_MAX_ADVICE_S = 3600.0


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
        own_s = min(_FIRST_S * 2.0 ** min(attempt - 1, 16), _MAX_S) * (1 - _SPREAD * chance)
        advised_s = (retry_after_s or 0.0) * (1 + _SPREAD * chance)
        return max(own_s, advised_s)


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

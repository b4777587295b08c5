"""When a request that failed is sent again by itself.

One that has not begun: the cluster had no room or no replica for it and said when to come
back, or no gateway was reached; where one stands still, is cut off or was there before, for as
long as another may take its place. And one whose connection was lost, as its gateway has ended,
if another answer would be the same (see `repetition`). An `EngineError` is left to the caller:
the request was at work, and may be what ended the engine.
"""

import random
import threading
import time
from collections.abc import Callable

from coterie.errors import CapacityError, CoterieError, InvalidArgumentError, UnavailableError
from coterie.repetition import Repetition

DEFAULT_MAX_RETRIES = 2
FIRST_DELAY_S = 0.25
# Of the delay, at random: those turned away together do not come back together.
JITTER = 0.25
# Who has to wait for longer is told instead.
MAX_DELAY_S = 60.0
# gRPC tries for seconds to connect anew, and fails at once what it is given meanwhile.
AWAY_DELAY_S = 1.0


class Attempts:
    """The tries of one request, within the time that it was given."""

    def __init__(
        self,
        max_retries: int,
        timeout_s: float | None,
        *,
        answered: threading.Event | None = None,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`answered` is set once a gateway has answered."""
        self.timeout_s = timeout_s
        self._answered = answered or threading.Event()
        self._max_retries = max_retries
        self._num_retries = 0
        self._away_since_s: float | None = None
        self._now = now
        self._chance = chance
        self._end_s = None if timeout_s is None else now() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Time that the next try may take; None where there is no limit."""
        return None if self._end_s is None else self._end_s - self._now()

    def note_answer(self) -> None:
        """A gateway is there."""
        self._answered.set()
        self._away_since_s = None

    def next_delay_s(self, error: CoterieError, repetition: Repetition) -> float | None:
        """How long to wait before the next try; None where there is none."""
        may_begin = _has_not_begun(error) and not repetition.has_begun
        may_repeat = repetition.is_possible and (_has_not_begun(error) or _was_lost(error))
        if not (may_begin or may_repeat) or self._max_retries == 0:
            return None
        is_away = isinstance(error, UnavailableError) and error.may_return
        delay_s = self._away_delay_s() if is_away else self._counted_delay_s(error)
        if delay_s is None:
            return None
        delay_s *= 1 + JITTER * self._chance()
        left_s = self.left_s
        if delay_s > MAX_DELAY_S or (left_s is not None and delay_s >= left_s):
            return None
        return delay_s

    def _counted_delay_s(self, error: CoterieError) -> float | None:
        self._away_since_s = None
        if self._num_retries >= self._max_retries:
            return None
        backoff_s: float = FIRST_DELAY_S * 2**self._num_retries
        self._num_retries += 1
        return max(backoff_s, error.retry_after_s or 0)

    def _away_delay_s(self) -> float | None:
        """Not counted, as nobody refuses it, and each try may reach another gateway."""
        now_s = self._now()
        if self._away_since_s is None:
            self._away_since_s = now_s
        return AWAY_DELAY_S if now_s - self._away_since_s < MAX_DELAY_S else None


def check_max_retries(max_retries: int) -> None:
    """Raises InvalidArgumentError for a number below 0."""
    if max_retries < 0:
        raise InvalidArgumentError(
            f"max_retries is {max_retries}; it must be 0 (never) or more", param="max_retries"
        )


def _was_lost(error: CoterieError) -> bool:
    return isinstance(error, UnavailableError) and error.was_connected


def _has_not_begun(error: CoterieError) -> bool:
    return error.retry_after_s is not None and isinstance(
        error, CapacityError | UnavailableError
    )

"""A rate limit that is exact after the fact: the bucket may go into debt.

How many tokens a request will produce is not known when it begins. So only what
is known is asked for at the start; what comes later is taken as it comes, below
zero if need be, and the debt is worked off before the next request begins. Over
any window of length t no more than `rate * t + capacity` is begun.
"""

import math


class TokenBucket:
    """Holds up to `capacity` and refills by `rate_per_s`; full at first."""

    def __init__(self, rate_per_s: float, capacity: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = capacity
        self._level = capacity
        self._filled_s = -math.inf

    def level(self, now_s: float) -> float:
        """What the bucket holds; negative while in debt."""
        self._fill(now_s)
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` can be taken without debt; 0 if it can at once.

        More than the bucket ever holds counts as a full bucket.
        """
        missing = min(amount, self._capacity) - self.level(now_s)
        return max(0.0, missing / self._rate_per_s)

    def take(self, amount: float, now_s: float) -> None:
        """Take it, into debt if need be."""
        self._fill(now_s)
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Undo a `take` of what was not used."""
        self._level = min(self._capacity, self._level + amount)

    def resize(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        """Refill at another rate from now on, up to another capacity."""
        self._fill(now_s)
        self._rate_per_s, self._capacity = rate_per_s, capacity
        self._level = min(capacity, self._level)

    def check_invariants(self) -> None:
        """It never holds more than its capacity."""
        assert self._level <= self._capacity

    def _fill(self, now_s: float) -> None:
        if now_s <= self._filled_s:
            return
        if math.isfinite(self._filled_s):
            refill = (now_s - self._filled_s) * self._rate_per_s
            self._level = min(self._capacity, self._level + refill)
        self._filled_s = now_s

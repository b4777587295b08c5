"""How many prompt tokens a second an engine computes while some wait for it."""

import math

_MEMORY_S = 60.0
_FEWEST_S = 0.05
"""Less of waiting says nothing."""


class PrefillSpeed:
    """Told how many wait, whenever that changes. Forgets slowly, in time that some waited."""

    def __init__(self) -> None:
        self.queued = 0
        """Prompt tokens that wait."""
        self._since_s = 0.0
        self._computed = 0.0
        self._waited_s = 0.0

    def note(self, now_s: float, queued: int, num_dropped: int = 0) -> None:
        """So many tokens wait now; of those that are gone since the last time, so many
        were given up."""
        if self.queued > 0:
            passed_s = now_s - self._since_s
            kept = math.exp(-passed_s / _MEMORY_S)
            self._computed *= kept
            self._waited_s = self._waited_s * kept + passed_s
        self._computed += max(0, self.queued - queued - num_dropped)
        self.queued, self._since_s = queued, now_s

    @property
    def tokens_per_s(self) -> float:
        """0 where it is not known."""
        return self._computed / self._waited_s if self._waited_s >= _FEWEST_S else 0.0

    def check_invariants(self) -> None:
        """Nothing is negative."""
        assert min(self.queued, self._computed, self._waited_s) >= 0

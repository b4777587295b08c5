"""How many prompt tokens a second are asked of an engine, and how many it computes."""

import math

_SPEED_MEMORY_S = 60.0
_ASKED_MEMORY_S = 30.0
_FEWEST_S = 0.05
"""Less of waiting says nothing."""


class PromptFlow:
    """Told what comes, and how much is left whenever that changes. Forgets slowly: speed in
    time that some waited, what was asked in time that passed."""

    def __init__(self) -> None:
        self.queued = 0
        """Prompt tokens that wait or are being computed."""
        self._since_s = 0.0
        self._computed = 0.0
        self._waited_s = 0.0
        self._asked = 0.0
        self._asked_s = 0.0

    def ask(self, now_s: float, num_tokens: int) -> None:
        """A prompt has come."""
        self._asked = self._asked_at(now_s) + num_tokens
        self._asked_s = now_s

    def note(self, now_s: float, queued: int, num_dropped: int = 0) -> None:
        """So many tokens wait now; of those that are gone since the last time, so many
        were given up."""
        if self.queued > 0:
            passed_s = now_s - self._since_s
            kept = math.exp(-passed_s / _SPEED_MEMORY_S)
            self._computed *= kept
            self._waited_s = self._waited_s * kept + passed_s
        self._computed += max(0, self.queued - queued - num_dropped)
        self.queued, self._since_s = queued, now_s

    @property
    def tokens_per_s(self) -> float:
        """What it computes while some wait; 0 where that is not known."""
        return self._computed / self._waited_s if self._waited_s >= _FEWEST_S else 0.0

    def asked_per_s(self, now_s: float) -> float:
        """The mean of about the last half minute, which counts as less the longer ago."""
        return self._asked_at(now_s) / _ASKED_MEMORY_S

    def _asked_at(self, now_s: float) -> float:
        return self._asked * math.exp((self._asked_s - now_s) / _ASKED_MEMORY_S)

    def check_invariants(self) -> None:
        """Nothing is negative."""
        assert min(self.queued, self._computed, self._waited_s, self._asked) >= 0

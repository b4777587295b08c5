"""How much each expert has to do: tokens and activations a second, over a moving window.

A *token* counts once for each expert that its gate chooses; an *activation* is an engine's
step in which an expert has at least one token. In decode the weights of each activated
expert are read once, however many tokens there are, so activations are what decode costs.

Hosts report what they have counted since they began, for each layer and expert. A report
that is lost is made good by the next one; a host that begins anew has a new id, and so
new counters. The first report of a host only says where its counters stand, because this
window may be the younger of the two: hosts report once before their first work.

The window is exponential: what was counted t seconds ago has the weight exp(-t / window_s).
Against a ring of buckets it keeps two arrays instead of dozens, takes reports at any
times, and has no edge at which a burst drops out at once and moves the estimate.

Worked example: window_s 10, a host reports 0 tokens at 0 s and 50 at 10 s. They weigh 50,
over a time that weighs 10 * (1 - exp(-1)) = 6.32 s: 7.9 tokens/s. Nothing more by 20 s:
50 * exp(-1) over 10 * (1 - exp(-2)) = 8.65 s: 2.1 tokens/s.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.types import HostId


@dataclass(frozen=True, eq=False)
class Load:
    """What there is to do for each expert."""

    tokens_per_s: NDArray[np.float64]  # [num_layers, num_experts]
    activations_per_s: NDArray[np.float64]  # [num_layers, num_experts]

    @classmethod
    def even(cls, num_layers: int, num_experts: int) -> "Load":
        """All experts alike: what to plan by before anything is known."""
        ones = np.ones((num_layers, num_experts))
        return cls(ones, ones)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.tokens_per_s.any() or self.activations_per_s.any())

    def check_invariants(self) -> None:
        """Raises AssertionError where the arrays cannot be a load."""
        assert self.tokens_per_s.shape == self.activations_per_s.shape
        for rates in (self.tokens_per_s, self.activations_per_s):
            assert rates.ndim == 2
            assert np.isfinite(rates).all()
            assert (rates >= 0).all()


@dataclass(frozen=True, eq=False)
class HostCounters:
    """What one host has computed since it began, all copies of an expert together."""

    host: HostId
    tokens: NDArray[np.int64]  # [num_layers, num_experts]
    activations: NDArray[np.int64]  # [num_layers, num_experts]


class LoadWindow:
    """Reports of all hosts, added up and faded. Times never go back."""

    def __init__(
        self, num_layers: int, num_experts: int, window_s: float, now_s: float
    ) -> None:
        assert window_s > 0
        self._window_s = window_s
        self._started_s = self._faded_s = now_s
        # Tokens, then activations. [2, num_layers, num_experts]
        self._sums = np.zeros((2, num_layers, num_experts))
        self._host_to_counts: dict[HostId, NDArray[np.int64]] = {}

    def report(self, counters: HostCounters, now_s: float) -> None:
        """Take a host's counters. A report older than another one of it has no effect."""
        counts = np.stack([counters.tokens, counters.activations])
        assert counts.shape == self._sums.shape
        last = self._host_to_counts.get(counters.host)
        if last is not None:
            new = counts - last
            if (new < 0).any():
                return
            self._fade(now_s)
            self._sums += new
        self._host_to_counts[counters.host] = counts

    def forget(self, host: HostId) -> None:
        """The host is gone. What it has reported stays in the window."""
        self._host_to_counts.pop(host, None)

    def load(self, now_s: float) -> Load:
        """The rates as of now; all 0 before any time has passed."""
        self._fade(now_s)
        observed = (now_s - self._started_s) / self._window_s
        weight_s = self._window_s * -math.expm1(-observed)
        tokens, activations = self._sums / weight_s if weight_s > 0 else 0.0 * self._sums
        return Load(tokens, activations)

    def _fade(self, now_s: float) -> None:
        assert now_s >= self._faded_s, "time goes back"
        self._sums *= math.exp((self._faded_s - now_s) / self._window_s)
        self._faded_s = now_s

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself."""
        assert self._started_s <= self._faded_s
        assert np.isfinite(self._sums).all()
        assert (self._sums >= 0).all()
        for counts in self._host_to_counts.values():
            assert counts.shape == self._sums.shape
            assert (counts >= 0).all()

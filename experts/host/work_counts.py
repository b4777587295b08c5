"""What a host has computed, counted while it computes and read by any thread."""

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Totals:
    """Since the process began."""

    at_s: float
    """When they were read."""
    busy_s: float
    queue_s: float
    """Waits of all requests together."""
    num_requests: int

    def queue_s_since(self, earlier: "Totals") -> float:
        """Mean wait of a request; 0 without requests."""
        num_requests = self.num_requests - earlier.num_requests
        return (self.queue_s - earlier.queue_s) / num_requests if num_requests else 0.0

    def busy_share_since(self, earlier: "Totals") -> float:
        """0 to 1; 0 where no time has passed."""
        passed_s = self.at_s - earlier.at_s
        return min(1.0, (self.busy_s - earlier.busy_s) / passed_s) if passed_s > 0 else 0.0


class WorkCounts:
    """Counters of one host. Adding takes some microseconds."""

    def __init__(self, num_layers: int, num_experts: int, now_s: float) -> None:
        self._lock = threading.Lock()
        self._tokens = np.zeros((num_layers, num_experts), np.int64)
        self._activations = np.zeros((num_layers, num_experts), np.int64)
        self._began = Totals(now_s, 0.0, 0.0, 0)
        self._busy_s = 0.0
        self._queue_s = 0.0
        self._num_requests = 0

    @property
    def began(self) -> Totals:
        """All zero, at the beginning."""
        return self._began

    def computed(self, layer: int, experts: NDArray[np.int16]) -> int:
        """A request had pairs of these experts; how many different ones it had.

        Shape: [num_pairs].
        """
        tokens = np.bincount(experts, minlength=self._tokens.shape[1])
        is_active = tokens > 0
        with self._lock:
            self._tokens[layer] += tokens
            self._activations[layer] += is_active
        return int(np.count_nonzero(is_active))

    def called(self, busy_s: float) -> None:
        """The kernel was called, and took so long."""
        with self._lock:
            self._busy_s += busy_s

    def answered(self, queue_s: float) -> None:
        """A request that has waited for so long was answered, whatever the status."""
        with self._lock:
            self._queue_s += queue_s
            self._num_requests += 1

    def totals(self, now_s: float) -> Totals:
        """At this moment."""
        with self._lock:
            return Totals(now_s, self._busy_s, self._queue_s, self._num_requests)

    def counters(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens and activations, copied. Shapes: [num_layers, num_experts]."""
        with self._lock:
            return self._tokens.copy(), self._activations.copy()

    def check_invariants(self) -> None:
        """Raises AssertionError where the counters contradict each other."""
        tokens, activations = self.counters()
        assert ((activations >= 0) & (activations <= tokens)).all()
        assert ((activations > 0) == (tokens > 0)).all()
        assert self._busy_s >= 0
        assert self._queue_s >= 0

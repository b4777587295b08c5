"""The totals of a batch."""

from dataclasses import dataclass, field

from coterie.batch.types import Outcome


@dataclass(slots=True)
class Tally:
    """Requests and tokens, counted as outcomes come.

    `num_ok` and `num_failed` include the `num_before` results of earlier runs;
    `num_tokens`, prompt and output together, are this run's. `errors` counts this run's
    failures by their status or code.
    """

    num_requests: int
    num_before: int = 0
    num_ok: int = 0
    num_failed: int = 0
    num_tokens: int = 0
    duration_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def num_left(self) -> int:
        """Requests without an outcome."""
        return self.num_requests - self.num_ok - self.num_failed

    @property
    def tokens_per_s(self) -> float:
        """Throughput of this run."""
        return self.num_tokens / self.duration_s if self.duration_s else 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        if outcome.is_ok:
            self.num_ok += 1
        else:
            self.num_failed += 1
            word = _word_of(outcome)
            self.errors[word] = self.errors.get(word, 0) + 1
        self.num_tokens += outcome.answer.num_tokens if outcome.answer else 0

    def check_invariants(self) -> None:
        """No request is counted twice."""
        assert 0 <= self.num_left <= self.num_requests - self.num_before
        assert sum(self.errors.values()) <= self.num_failed


def _word_of(outcome: Outcome) -> str:
    if outcome.fault is not None:
        return outcome.fault.code
    assert outcome.answer is not None
    return str(outcome.answer.status)

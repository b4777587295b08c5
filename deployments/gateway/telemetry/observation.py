"""One request as it is observed, and who wants to know of it.

    started ──> checked ──> first delta ──> ... ──> last delta ──> ended
       └── duration_s ─────────────────────────────────────────────────┘
       └── ttft_s ────────────────┘ └── tpot_s x (output tokens after) ┘

Times are of the given monotonic clock, in seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from deployments.gateway.resume import Resume
from deployments.gateway.usage import UsageCounter
from deployments.types import CallOptions, Delta, Sampling

UNKNOWN_MODEL = "unknown"
"""Stands for all names of models that are not served: clients make them up."""

Operation = Literal["chat", "text_completion", "embeddings"]
Outcome = Literal["finished", "aborted", "rejected", "failed"]
"""`aborted`: the client left. `rejected`: turned away, or out of time, before an engine
worked on it. `failed`: ended by another error."""


@dataclass(slots=True)
class Observation:
    """What is known of a request so far."""

    operation: Operation
    model: str
    """As the client wrote it, until it is checked or over; then its full name, or
    `UNKNOWN_MODEL`."""
    sampling: Sampling
    options: CallOptions
    started_s: float
    started_at_s: float
    """Seconds since the epoch."""
    request_id: str = ""
    queue_s: float = 0.0
    has_begun: bool = False
    """An engine has had it."""
    num_prompt_tokens: int = 0
    num_first_tokens: int = 0
    """Output tokens of the first delta."""
    checked_s: float | None = None
    resumes: Sequence[Resume] = ()
    """What came of each loss of an engine replica."""
    first_s: float | None = None
    last_s: float = 0.0
    ended_s: float = 0.0
    index_to_finish: dict[int, str] = field(default_factory=dict)
    """How each output ended, so far."""
    outcome: Outcome | None = None
    error: str | None = None
    """Kind of the error that ended it."""
    trace_id: str | None = None
    on_gap: Callable[[float], None] | None = None
    """Called with the time between two deltas."""
    span: Any = None
    counter: UsageCounter = field(init=False)
    """Output and cached tokens; not the prompts'."""

    def __post_init__(self) -> None:
        num_outputs = self.sampling.n
        per_prompt = 1 if self.operation == "embeddings" else num_outputs
        self.counter = UsageCounter(0, num_outputs, per_prompt)

    def saw(self, delta: Delta, now_s: float) -> None:
        """Count one delta."""
        if self.first_s is None:
            self.first_s = now_s
            self.num_first_tokens = len(delta.token_ids)
        elif self.on_gap is not None:
            self.on_gap(now_s - self.last_s)
        self.last_s = now_s
        self.counter.add(delta)
        if delta.finish_reason is not None:
            self.index_to_finish[delta.index] = delta.finish_reason

    @property
    def is_used(self) -> bool:
        """It took something of an engine: what is billed, and what metrics count as work."""
        return self.has_begun and self.outcome != "rejected"

    @property
    def num_output_tokens(self) -> int:
        """Of all outputs, so far."""
        return self.counter.usage.num_output_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that came from the prefix cache, so far."""
        return self.counter.usage.num_cached_tokens

    @property
    def finish_reasons(self) -> list[str]:
        """In the order of the outputs."""
        return [reason for _, reason in sorted(self.index_to_finish.items())]

    @property
    def has_all_outputs(self) -> bool:
        """Every output has its end."""
        return len(self.index_to_finish) >= self.sampling.n

    @property
    def is_streamed(self) -> bool:
        """Its outputs are texts that come in pieces."""
        return self.options.stream and self.operation != "embeddings"

    @property
    def duration_s(self) -> float:
        """From the request's start to its end."""
        return self.ended_s - self.started_s

    @property
    def ttft_s(self) -> float | None:
        """Time to the first output token; None where outputs come whole."""
        if self.first_s is None or not self.is_streamed:
            return None
        return self.first_s - self.started_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first delta; None where outputs come whole,
        or side by side, or in a single delta.
        """
        num_after = self.num_output_tokens - self.num_first_tokens
        if self.ttft_s is None or self.sampling.n > 1 or num_after < 1:
            return None
        assert self.first_s is not None
        return (self.last_s - self.first_s) / num_after


class Observer(Protocol):
    """Hears of each request. All methods return at once and never raise."""

    def on_start(self, observation: Observation) -> None:
        """A request came in; its `options` may be replaced."""
        ...

    def on_checked(self, observation: Observation) -> None:
        """It has been checked and tokenized, and waits for admission."""
        ...

    def on_end(self, observation: Observation) -> None:
        """It is over; `outcome` is set. Comes once for each start."""
        ...

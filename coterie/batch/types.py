"""What crosses the borders of a batch: a request, an answer, an outcome.

A *request* is a line of the input file, named by its `custom_id`. What a server says to
it is an *answer*. Its *outcome* is what the output file tells of it: the answer, or the
fault by which there is none. An outcome is *final* unless the same request may pass
later: a server that had no room, or none that answered.
"""

from dataclasses import dataclass
from typing import Any

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""The `url` that a request may have."""

STATUSES_TO_RETRY = frozenset({408, 429, 502, 503})


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line of the input; `line` counts from 1."""

    line: int
    custom_id: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, whatever its status. `retry_after_s` is its own advice."""

    status: int
    request_id: str
    body: Any
    retry_after_s: float | None = None

    @property
    def is_ok(self) -> bool:
        """The request was served."""
        return 200 <= self.status < 300

    @property
    def code(self) -> str | None:
        """The server's own word for its failure; None where it has none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        word = error.get("code") if isinstance(error, dict) else None
        return word if isinstance(word, str) else None

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens as the server counted them; 0 where it did not."""
        usage = self.body.get("usage") if isinstance(self.body, dict) else None
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        return total if isinstance(total, int) else 0

    def __str__(self) -> str:
        """The status, and the server's word where it has one."""
        return f"{self.status} {self.code or ''}".rstrip()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no answer: a stable word, and a message."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request: exactly one of `answer` and `fault`."""

    custom_id: str
    answer: Answer | None
    fault: Fault | None = None

    @property
    def is_ok(self) -> bool:
        """The request was served."""
        return self.answer is not None and self.answer.is_ok


def is_final(status: int | None) -> bool:
    """Whether a request that ended with this status is not to be sent again; None
    where there was no answer."""
    return status is not None and status not in STATUSES_TO_RETRY

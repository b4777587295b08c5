"""What crosses the borders of the benchmark: a planned request, a piece, a sample.

TTFT  time to first token: from the sending of a request to its first output.
ITL   inter-token latency: the gap between two pieces of output as they arrive.
TPOT  time per output token after the first: (last piece - first piece) / (n - 1).
E2E   from the sending of a request to its last piece of output.

A request sent at 10.0 s with pieces of one token at 10.5, 10.6 and 10.9 s has
TTFT 0.5 s, ITL 0.1 and 0.3 s, TPOT 0.4 / 2 = 0.2 s and E2E 0.9 s.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a load, but for the words of a made-up prompt.

    `prompt` is None where `num_prompt_tokens` are to be made up, the first of
    them from `prefix_blocks`: requests that share leading block ids share these
    tokens. `at_s` is the arrival, in seconds after the load's start; None where
    a request follows the end of another one.
    """

    index: int
    max_tokens: int | None
    prompt: str | None = None
    num_prompt_tokens: int = 0
    prefix_blocks: tuple[int, ...] = ()
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What is sent: text or token ids, and the most output tokens wanted."""

    prompt: str | tuple[int, ...]
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one request, as the server counted them."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Something of an answer that arrived: output, the counts, or both."""

    has_output: bool
    counts: Counts | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed: a stable word, and the first message that told it."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured of one request; times in seconds.

    `sent_s` counts from the load's start. Without any output `ttft_s` is None;
    with fewer than two output tokens `tpot_s` is. `late_s` is how long after its
    arrival the client came to send it, 0 without arrivals. `has_counts` tells whether
    the server counted the tokens; otherwise each piece of output counts as one.
    """

    index: int
    sent_s: float
    late_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float
    itl_s: tuple[float, ...]  # [num_pieces - 1]
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    has_counts: bool
    failure: Failure | None = None

"""One request's timeline: when each piece of output came, and the sample of it."""

from itertools import pairwise

from coterie.benchmark.types import Counts, Failure, Piece, PlannedRequest, Sample


class Timeline:
    """Takes note of pieces as they come; times in seconds of one clock."""

    def __init__(self, request: PlannedRequest, start_s: float, sent_s: float) -> None:
        """`start_s` is when the load began, `sent_s` when the request was sent."""
        self._request = request
        self._start_s = start_s
        self._sent_s = sent_s
        self._output_s: list[float] = []
        self._counts: Counts | None = None

    def add(self, piece: Piece, now_s: float) -> None:
        """A piece has come."""
        if piece.has_output:
            self._output_s.append(now_s)
        self._counts = piece.counts or self._counts

    def sample(self, now_s: float, failure: Failure | None = None) -> Sample:
        """What the request came to, `now_s` being its end.

        A request without output, or one that failed, lasted until its end;
        every other one until its last piece of output.
        """
        times_s = self._output_s
        counts = self._counts or Counts(0, len(times_s), 0)
        sent_s, at_s = self._sent_s - self._start_s, self._request.at_s
        is_whole = bool(times_s) and failure is None
        return Sample(
            index=self._request.index,
            sent_s=sent_s,
            late_s=0.0 if at_s is None else sent_s - at_s,
            ttft_s=times_s[0] - self._sent_s if times_s else None,
            tpot_s=_tpot_s(times_s, counts.num_output_tokens),
            e2e_s=(times_s[-1] if is_whole else now_s) - self._sent_s,
            itl_s=tuple(later - earlier for earlier, later in pairwise(times_s)),
            num_prompt_tokens=counts.num_prompt_tokens,
            num_output_tokens=counts.num_output_tokens,
            num_cached_tokens=counts.num_cached_tokens,
            has_counts=self._counts is not None,
            failure=failure,
        )


def _tpot_s(times_s: list[float], num_output_tokens: int) -> float | None:
    if not times_s or num_output_tokens < 2:
        return None
    return (times_s[-1] - times_s[0]) / (num_output_tokens - 1)

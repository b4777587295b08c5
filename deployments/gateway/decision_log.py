"""The latest decisions of one model's router, and what came of each prediction."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from deployments.gateway.call_id import request_id_of
from router.explanation import Explanation, rows_of
from router.settings import CostSection
from router.types import Decision

_MAX_CALLS = 64
"""Calls of one request that are kept: each prompt of several has its own."""
_MAX_CANDIDATES_PER_REQUEST = 32
"""On average, by which the memory of a log is bounded."""


@dataclass(eq=False)
class DecidedCall:
    """One call and its decision; what the engine had cached follows."""

    decision: Decision
    decided_at_s: float
    num_found_cached_tokens: int | None = None
    has_ended: bool = False


@dataclass
class RoutingCounts:
    """What has been decided since the start, and how right it was. All in tokens of
    prompts, but for the counters of decisions."""

    decisions: "Counter[str]"
    """By the policy that was applied."""
    num_expected_cached_tokens: int = 0
    """Of calls that have had an output, as are the next two."""
    num_missed_tokens: int = 0
    """Expected to be cached, and not."""
    num_unexpected_tokens: int = 0
    """Cached, and not expected."""


class DecisionLog:
    """Keeps the decisions of the latest `max_requests` requests."""

    def __init__(
        self,
        model: str,
        max_requests: int,
        weights: CostSection,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.counts = RoutingCounts(Counter())
        self._model = model
        self._max_requests = max_requests
        self._weights = weights
        self._now_s = now_s
        self._by_request: OrderedDict[str, list[DecidedCall]] = OrderedDict()
        self._num_candidates = 0

    def add(self, call_id: str, decision: Decision) -> DecidedCall:
        """One call has been decided."""
        self.counts.decisions[decision.applied] += 1
        call = DecidedCall(decision, self._now_s())
        calls = self._by_request.setdefault(request_id_of(call_id), [])
        if len(calls) < _MAX_CALLS:
            calls.append(call)
            self._num_candidates += decision.num_candidates
        self._forget_oldest()
        return call

    def note_cached(self, call: DecidedCall, num_cached_tokens: int) -> None:
        """The engine has told, with the first output, what it had cached."""
        call.num_found_cached_tokens = num_cached_tokens
        expected = call.decision.num_expected_cached_tokens
        self.counts.num_expected_cached_tokens += expected
        self.counts.num_missed_tokens += max(0, expected - num_cached_tokens)
        self.counts.num_unexpected_tokens += max(0, num_cached_tokens - expected)

    def calls_of(self, request_id: str) -> list[DecidedCall]:
        """In their order; empty where the request is not known, or forgotten."""
        return self._by_request.get(request_id, [])

    def explain(self, request_id: str) -> list[Explanation]:
        """Why each call of the request went where it did, in their order."""
        return [self._explanation(call) for call in self.calls_of(request_id)]

    def check_invariants(self) -> None:
        """Bounded, and the candidates are counted right."""
        assert len(self._by_request) <= self._max_requests
        all_calls = [call for calls in self._by_request.values() for call in calls]
        assert self._num_candidates == sum(c.decision.num_candidates for c in all_calls)

    def _forget_oldest(self) -> None:
        max_candidates = self._max_requests * _MAX_CANDIDATES_PER_REQUEST
        while self._by_request and (
            len(self._by_request) > self._max_requests or self._num_candidates > max_candidates
        ):
            _, calls = self._by_request.popitem(last=False)
            self._num_candidates -= sum(call.decision.num_candidates for call in calls)

    def _explanation(self, call: DecidedCall) -> Explanation:
        decision = call.decision
        return Explanation(
            model=self._model,
            decided_at_s=call.decided_at_s,
            replica_id=decision.replica_id,
            policy=decision.policy,
            applied=decision.applied,
            num_prompt_tokens=decision.request.num_prompt_tokens,
            num_expected_cached_tokens=decision.num_expected_cached_tokens,
            num_found_cached_tokens=call.num_found_cached_tokens,
            has_ended=call.has_ended,
            rows=rows_of(decision, self._weights),
        )

"""A decision in words and numbers, for whoever asks why a request went where it did."""

import math
from typing import Literal

import msgspec

from router.filter import has_room
from router.policies import affinities
from router.score import terms_of
from router.settings import CostSection
from router.types import Candidate, Decision, PolicyName, ReplicaId, ReplicaState

Outcome = Literal["chosen", "passed", "full"] | ReplicaState
"""`passed`: another was better. `full`: its KV cache could not hold the request while
another's could. Else its state, in which it could not be chosen."""


class Row(msgspec.Struct, frozen=True):
    """One candidate: what became of it, what it was judged by, what it had.

    `terms` are those of `router.score`, whatever the policy; `score` is the policy's, None
    where the filter left the candidate out, and infinite numbers in it are left out too.
    """

    candidate: Candidate
    outcome: Outcome
    score: tuple[float, ...] | None
    terms: dict[str, float]
    cost: float


class Explanation(msgspec.Struct, frozen=True):
    """Why one call of a request went to its replica.

    `num_found_cached_tokens` is what the engine really had cached, None until its first
    output.
    """

    model: str
    decided_at_s: float
    """Seconds since the epoch."""
    replica_id: ReplicaId
    policy: PolicyName
    applied: PolicyName
    num_prompt_tokens: int
    num_expected_cached_tokens: int
    num_found_cached_tokens: int | None
    has_ended: bool
    rows: list[Row]


def rows_of(decision: Decision, weights: CostSection) -> list[Row]:
    """All candidates, the chosen one first, then by cost."""
    is_hashed = decision.applied == "consistent_hash"
    scored = zip(decision.candidates, decision.scores, strict=True)
    left_in = [candidate for candidate, score in scored if score is not None]
    found = affinities(left_in, decision.request) if is_hashed else [0.0] * len(left_in)
    id_to_affinity = {c.replica_id: a for c, a in zip(left_in, found, strict=True)}
    rows = [
        _row(decision, weights, i, id_to_affinity.get(c.replica_id, 0.0))
        for i, c in enumerate(decision.candidates)
    ]
    return sorted(rows, key=lambda row: (row.outcome != "chosen", row.score is None, row.cost))


def _row(decision: Decision, weights: CostSection, position: int, affinity: float) -> Row:
    candidate, score = decision.candidates[position], decision.scores[position]
    terms = terms_of(candidate, decision.request, weights, affinity)
    return Row(
        candidate=candidate,
        outcome=_outcome(decision, candidate),
        score=None if score is None else tuple(s for s in score if math.isfinite(s)),
        terms=terms._asdict(),
        cost=terms.cost,
    )


def _outcome(decision: Decision, candidate: Candidate) -> Outcome:
    if candidate is decision.chosen:
        return "chosen"
    if candidate.state != "ready":
        return candidate.state
    if has_room(candidate, decision.request) or has_no_room(decision):
        return "passed"
    return "full"


def has_no_room(decision: Decision) -> bool:
    """No ready candidate could hold the request, so that none was left out for it."""
    return not has_room(decision.chosen, decision.request)

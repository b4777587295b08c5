"""The policies by name: each gives every candidate a score, lower is better.

A policy gets the candidates that the filter has left, at least one. Ties fall to the one
chosen least often (`router.pick`), so that an idle fleet is used evenly.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from router.consistent_hash import replicas_of
from router.score import load_tokens, terms_of
from router.settings import CostSection
from router.types import Candidate, PolicyName, RoutedRequest, Score


@dataclass(frozen=True)
class Contest:
    """What a policy decides by."""

    candidates: Sequence[Candidate]
    request: RoutedRequest
    weights: CostSection
    random: Random


Policy = Callable[[Contest], list[Score]]


def by_cost(contest: Contest) -> list[Score]:
    """The least work before the first token: see `router.score`."""
    request, weights = contest.request, contest.weights
    return [(sum(terms_of(c, request, weights)),) for c in contest.candidates]


def by_prefix(contest: Contest) -> list[Score]:
    """The least of the prompt to compute, then the least load."""
    return [
        (-float(c.prefix.longest_tokens), load_tokens(c.load, contest.weights))
        for c in contest.candidates
    ]


def by_load(contest: Contest) -> list[Score]:
    """The least load."""
    return [(load_tokens(c.load, contest.weights),) for c in contest.candidates]


def by_load_of_two(contest: Contest) -> list[Score]:
    """The less loaded of two at random; the others have no chance."""
    candidates = contest.candidates
    if len(candidates) <= 2:
        return by_load(contest)
    drawn = contest.random.sample(range(len(candidates)), 2)
    scores: list[Score] = [(math.inf,)] * len(candidates)
    for i in drawn:
        scores[i] = (load_tokens(candidates[i].load, contest.weights),)
    return scores


def by_hash(contest: Contest) -> list[Score]:
    """The near replica of the prompt, or the far one where that has less to do by more
    than the prompt: the most that going to the near one may save. Likewise any other
    where it has less to do than the far one by as much again.

    Where a request has no keys it is the least cost alone.
    """
    near_and_far = affinities(contest.candidates, contest.request)
    return [
        (sum(terms_of(c, contest.request, contest.weights, affinity)),)
        for c, affinity in zip(contest.candidates, near_and_far, strict=True)
    ]


def affinities(candidates: Sequence[Candidate], request: RoutedRequest) -> list[float]:
    """What consistent hashing takes off each candidate's cost; none of them above 0."""
    if request.hash_keys is None:
        return [0.0] * len(candidates)
    near, far = replicas_of(request.hash_keys, [c.replica_id for c in candidates])
    to_affinity = {near: -2.0 * request.num_prompt_tokens}
    if far is not None:
        to_affinity[far] = -1.0 * request.num_prompt_tokens
    return [to_affinity.get(c.replica_id, 0.0) for c in candidates]


def in_turn(contest: Contest) -> list[Score]:
    """All alike: whoever was chosen least often."""
    return [(0.0,)] * len(contest.candidates)


POLICIES: dict[PolicyName, Policy] = {
    "cost": by_cost,
    "prefix": by_prefix,
    "least_loaded": by_load,
    "power_of_two": by_load_of_two,
    "consistent_hash": by_hash,
    "round_robin": in_turn,
}

FALLBACKS: dict[PolicyName, PolicyName] = {
    "cost": "consistent_hash",
    "prefix": "consistent_hash",
}
"""What decides in place of a policy that needs the prefix index, while that is away."""

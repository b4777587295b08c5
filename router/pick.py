"""Pick: filter, score, and take the best. A pure function of the candidates."""

from collections.abc import Sequence
from random import Random

from infra.errors import NoReplicaError
from router.filter import eligible
from router.policies import POLICIES, Contest
from router.settings import CostSection
from router.types import Candidate, Decision, PolicyName, RoutedRequest, Score


def pick(
    candidates: Sequence[Candidate],
    request: RoutedRequest,
    weights: CostSection,
    random: Random,
    policy: PolicyName,
    *,
    applied: PolicyName | None = None,
) -> Decision:
    """The candidate with the lowest score; of equals the one chosen least often, and of
    those the first. `applied` decides in place of `policy` where it is given.

    Raises NoReplicaError where no candidate is ready.
    """
    left = eligible(candidates, request)
    if not left:
        raise NoReplicaError("no engine replica takes requests at the moment; try again")
    applied = applied or policy
    contest = Contest([candidates[i] for i in left], request, weights, random)
    scores: list[Score | None] = [None] * len(candidates)
    best: tuple[Score, int, int] | None = None
    for i, score in zip(left, POLICIES[applied](contest), strict=True):
        scores[i] = score
        rank = (score, candidates[i].num_chosen, i)
        best = rank if best is None else min(best, rank)
    assert best is not None
    return Decision(
        chosen=candidates[best[2]],
        policy=policy,
        applied=applied,
        request=request,
        candidates=tuple(candidates),
        scores=tuple(scores),
    )

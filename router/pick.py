"""Score and pick: pure functions of the candidates."""

from collections.abc import Callable, Sequence

from infra.errors import NoReplicaError
from router.types import Candidate, Decision

Score = Callable[[Candidate], tuple[int, ...]]

# Lower is better. Ties fall to the candidate chosen least often, so that an
# idle fleet is used evenly.
SCORES: dict[str, Score] = {
    "least_loaded": lambda c: (c.load_tokens, c.num_chosen),
    "round_robin": lambda c: (c.num_chosen,),
}


def pick(candidates: Sequence[Candidate], policy: str) -> Decision:
    """The candidate with the lowest score; the first of equals.

    Raises NoReplicaError where there is no candidate.
    """
    if not candidates:
        raise NoReplicaError("no engine replica takes requests at the moment; try again")
    chosen = min(candidates, key=SCORES[policy])
    return Decision(chosen.replica_id, len(candidates), policy)

"""The obvious twin of a draft desk: reads all of a sequence for each token of its draft."""

from collections.abc import Callable, Sequence

from deployments.drafts.vocabulary import Vocabulary
from router.speculation.confidence import kind_of

Likeliest = Callable[[Sequence[int]], tuple[int, float]]
"""The token that a model says after these, and how likely it is."""


def draft(
    said: Sequence[int],
    max_tokens: int,
    rates: Sequence[float],
    least: float,
    likeliest: Likeliest,
    vocabulary: Vocabulary,
) -> list[int]:
    """The engine's tokens that follow `said`, which are the draft model's."""
    own_ids, found, chance = list(said), list[int](), 1.0
    while own_ids and len(found) < max_tokens and chance >= least:
        own_id, own_chance = likeliest(own_ids)
        token_id = vocabulary.token_id(own_id)
        if token_id is None:
            break
        own_ids.append(own_id)
        found.append(token_id)
        chance *= rates[kind_of(own_chance)]
    return found


def latest(said: Sequence[int], context_tokens: int) -> list[int]:
    """What is read of a sequence that has grown."""
    return list(said if len(said) <= 2 * context_tokens else said[-context_tokens:])

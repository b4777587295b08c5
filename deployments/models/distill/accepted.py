"""From what was proposed and what was said to rates.

Of tokens proposed in a row those before the first wrong one are accepted: of `a b c d`,
where the target says `a b x d`, two. The rate of the third token is the part of the rows
with a right third token among those of which the first two are right.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from deployments.models.distill.answers import Ids
from deployments.models.distill.report import Acceptance
from deployments.models.distill.vocabulary import Integers


def num_accepted(proposed: Integers, said: Integers | Ids) -> list[int]:
    """Accepted tokens of each row. Shapes: both [num_rows, num_proposed]."""
    counts: list[int] = np.cumprod(proposed == said, axis=1).sum(axis=1).tolist()
    return counts


def acceptance_of(accepted: Sequence[int], num_proposed: int) -> Acceptance:
    """Rates of all rows; those of a token that was never reached are 0."""
    reached = [sum(count >= n for count in accepted) for n in range(num_proposed + 1)]
    rates = (after / before if before else 0.0 for before, after in pairwise(reached))
    mean = sum(accepted) / len(accepted) if accepted else 0.0
    return Acceptance(len(accepted), tuple(round(rate, 4) for rate in rates), round(mean, 4))

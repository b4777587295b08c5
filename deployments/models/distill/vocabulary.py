"""Which tokens the draft can say.

    id     a token's number in the target's vocabulary
    row    its row in the draft's head; rows are in ascending order of their ids
    d2t    of each row, its id less the row (EAGLE-3's convention)

A draft that says tokens 0, 2 and 5 has rows 0, 1, 2 and d2t [0, 1, 3].
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from deployments.models.distill.answers import Answer

Integers = npt.NDArray[np.int64]


def likeliest(answers: Iterable[Answer], size: int, num_tokens: int) -> Integers:
    """Ids of the tokens that the target is likeliest to say, ascending.

    Of the probability that it gives to each, summed over all places; of equal ones
    those of lower ids. Shape: [size], or [num_tokens] if `size` is 0.
    """
    if size == 0:
        return np.arange(num_tokens)
    weight = np.zeros(num_tokens)
    for answer in answers:
        shares = np.exp(answer.top_logprobs.astype(np.float64))
        np.add.at(weight, answer.top_ids.ravel(), shares.ravel())
        np.add.at(weight, answer.said, 1.0)
    return np.sort(np.argsort(-weight, kind="stable")[:size])


def to_d2t(ids: Integers) -> Integers:
    """Shape: [num_rows], as `ids`."""
    return ids - np.arange(len(ids))


def from_d2t(d2t: Integers) -> Integers:
    """Ids of the rows. Shape: [num_rows]."""
    return d2t + np.arange(len(d2t))


def rows_of(ids: Integers, num_tokens: int) -> Integers:
    """Row of each id of the target, -1 for those without one. Shape: [num_tokens]."""
    rows = np.full(num_tokens, -1)
    rows[ids] = np.arange(len(ids))
    return rows


def coverage(answers: Iterable[Answer], ids: Integers) -> float:
    """Part of the tokens said that the draft can say."""
    said = np.concatenate([answer.said for answer in answers])
    return round(float(np.isin(said, ids).mean()), 4)

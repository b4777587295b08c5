"""Drafts from the sequence itself: what followed the same words before.

Answers repeat their prompts: the function that is edited, the text that is quoted, the names
that are extracted. The longest end of a sequence that stands in it once before is looked up, of
equal ones the latest, and what followed it there is the draft. (Saxena, "Prompt Lookup
Decoding", 2023.)

In A B C D A B the end "A B" stands at 0, so the draft is C D A B; where it reaches the
sequence's own end it goes on from its beginning.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled
from router.speculation.types import MAX_TOKENS, NO_DRAFT, Draft, TokenIds

MAX_MATCH = 16
"""Tokens; longer matches tell no more."""


@compiled(types.UniTuple(types.int64, 2)(types.int32[::1], types.int64, types.int64))
def _longest_match(tokens: TokenIds, min_match: int, max_match: int) -> tuple[int, int]:
    """(position after the match, its length); length 0 where there is none.

    Shape: [num_tokens].
    """
    end = len(tokens)
    best_end, best = 0, min_match - 1
    for stop in range(end - 1, 0, -1):
        if tokens[stop - 1] != tokens[end - 1]:
            continue
        length = 1
        limit = min(stop, max_match)
        while length < limit and tokens[stop - 1 - length] == tokens[end - 1 - length]:
            length += 1
        if length > best:
            best_end, best = stop, length
            if best == max_match:
                break
    if best < min_match:
        return 0, 0
    return best_end, best


PRIOR_RATES = (0.3, 0.5, 0.65, 0.8, 0.9)
_NUM_KINDS = len(PRIOR_RATES)


class PromptLookup:
    """Drafts after matches of at least `min_match` tokens.

    A token's kind is the length of the match that it follows, the draft's own tokens before it
    among them: from 1, 2, 4, 8 and 16 on.
    """

    prior_rates = PRIOR_RATES

    def __init__(self, min_match: int = 2) -> None:
        self._min_match = min_match

    def saw(self, tokens: TokenIds, start: int) -> None:
        """The sequence itself is looked through each time."""

    def draft(self, tokens: TokenIds, max_tokens: int, rates: NDArray[np.float64]) -> Draft:
        """What followed. Takes about 1 us for each 1,000 tokens of the sequence."""
        if len(tokens) < 2 or max_tokens < 1:
            return NO_DRAFT
        start, match = _longest_match(tokens, self._min_match, MAX_MATCH)
        if not match:
            return NO_DRAFT
        found = tokens[start : start + max_tokens]
        if len(found) < max_tokens:
            found = np.resize(found, max_tokens)
        return Draft(found.tolist(), _KINDS[match - 1 : match - 1 + max_tokens])


def _kind_of(match: int) -> int:
    return min(match.bit_length() - 1, _NUM_KINDS - 1)


_KINDS = [_kind_of(match) for match in range(1, MAX_MATCH + MAX_TOKENS + 1)]

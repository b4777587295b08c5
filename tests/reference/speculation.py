"""Obvious twins of what speculation decides."""

import itertools
import math
from collections.abc import Callable, Sequence


def prompt_lookup(
    tokens: Sequence[int], min_match: int, max_match: int, max_tokens: int
) -> list[int]:
    """What followed the longest end that stands there before; of equals the latest."""
    for length in range(min(max_match, len(tokens) - 1), min_match - 1, -1):
        end = tokens[len(tokens) - length :]
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == end:
                following = tokens[start + length :]
                return list(itertools.islice(itertools.cycle(following), max_tokens))
    return []


def expected_tokens(chances: Sequence[Sequence[float]], lengths: Sequence[int]) -> float:
    """Tokens that a step is expected to give."""
    return sum(
        1 + sum(math.prod(draft[: i + 1]) for i in range(length))
        for draft, length in zip(chances, lengths, strict=True)
    )


def best_goodput(chances: Sequence[Sequence[float]], step_s: Callable[[int], float]) -> float:
    """Of all lengths there are: the most tokens a second."""
    return max(
        expected_tokens(chances, lengths) / step_s(sum(lengths))
        for lengths in itertools.product(*(range(len(draft) + 1) for draft in chances))
    )

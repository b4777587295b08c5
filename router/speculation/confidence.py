"""Kinds of a draft model's tokens: how sure it was of each.

A model that says a token with chance 0.9 is right more often than where it says one with 0.4,
though not in nine cases of ten: how often it is, `ChanceTable` learns for each kind.
"""

from bisect import bisect

_BOUNDS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)

NUM_KINDS = len(_BOUNDS) + 1

PRIOR_RATES = (0.05, 0.12, 0.22, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96)
"""Of each kind, before any was verified."""


def kind_of(chance: float) -> int:
    """Of a token that a model holds for so likely."""
    return bisect(_BOUNDS, chance)

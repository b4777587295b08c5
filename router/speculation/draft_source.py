"""What drafts for a whole batch at once, elsewhere: one interface.

A source is *told* what sequences have said, and *gives* drafts some time later. It may keep
what it has read of a sequence, so that only what is new has to be read the next time.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from router.speculation.types import Draft, TokenIds


class ToldRow(NamedTuple):
    """A sequence of which a draft is wanted."""

    sequence: int
    """Its number, the same at each step; no other sequence ever has it."""
    tokens: TokenIds  # [num_tokens]: prompt and output
    max_tokens: int
    """Of the draft."""


class Terms(NamedTuple):
    """What is worth drafting."""

    rates: NDArray[np.float64]  # [num_kinds]: share of each kind that is accepted
    least: float
    """A draft goes no further where it is less likely to be accepted so far."""
    patience_s: float = math.inf
    """Drafts are given within it, as far as they have come."""


class DraftSource(Protocol):
    """Not for several threads at once. No call raises; without drafts engines go on."""

    @property
    def prior_rates(self) -> Sequence[float]:
        """What share of each kind of token is taken to be accepted, before any was verified."""

    @property
    def token_s(self) -> float:
        """About what one token more of all drafts takes; 0 where it is not known."""

    def tell(self, rows: Sequence[ToldRow], terms: Terms) -> None:
        """Have drafts made for these; what was wanted before and not given is given up."""

    def give(self, patience_s: float) -> Mapping[int, Draft]:
        """Drafts by number of the sequence, for those told last; waits so long at most.

        Where they are not there in time there are none.
        """

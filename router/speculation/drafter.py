"""What proposes drafts, without a model: one interface."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router.speculation.types import Draft, TokenIds


class Drafter(Protocol):
    """Keeps nothing of a sequence but what `saw` gives it."""

    @property
    def prior_rates(self) -> Sequence[float]:
        """What share of each kind of token is taken to be accepted, before any was verified."""

    def saw(self, tokens: TokenIds, start: int) -> None:
        """A sequence has said the tokens from `start` on. Shape: [num_tokens]."""

    def draft(self, tokens: TokenIds, max_tokens: int, rates: NDArray[np.float64]) -> Draft:
        """What may follow. `rates` are the kinds' rates of acceptance.

        Shapes: [num_tokens], [num_kinds]. It changes nothing.
        """

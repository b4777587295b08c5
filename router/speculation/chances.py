"""What share of drafts is accepted, learnt while serving.

Two things tell how likely a token is: its kind (how long a match it follows, how sure a
draft model was of it), for which all sequences count; and its sequence, for whose text a
drafter is better or worse than elsewhere. Their logits are added:

    logit(chance) = logit(rate of the kind) + bias of the sequence

The rate is a mean with exponential forgetting that begins at a prior. The bias begins
at 0 and takes a step along the gradient of the log-likelihood at each token that was
verified (online logistic regression).

Tokens after the first one rejected tell nothing: the engine has not seen what they follow.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

LEARNING_RATE = 0.3
MAX_BIAS = 4.0
_LEAST = 0.01


class ChanceTable:
    """Chances of one drafter's kinds of tokens, over all sequences of an engine."""

    def __init__(self, prior: Sequence[float], memory_tokens: int, prior_tokens: int) -> None:
        self._memory = 1 - 1 / memory_tokens
        self._accepted = [rate * prior_tokens for rate in prior]
        self._verified = [float(prior_tokens)] * len(prior)
        self._logits = [_logit(rate) for rate in prior]
        self.rates = np.array(prior, float)
        """Share of verified tokens that were accepted. Shape: [num_kinds]."""

    def chances(self, kinds: Iterable[int], bias: float) -> list[float]:
        """Of tokens of these kinds, in a sequence of this bias."""
        logits = self._logits
        return [1 / (1 + math.exp(-logits[kind] - bias)) for kind in kinds]

    def learn(self, kind: int, bias: float, *, is_accepted: bool) -> float:
        """Count a verified token; gives the sequence's bias after it."""
        (chance,) = self.chances((kind,), bias)
        accepted = self._memory * self._accepted[kind] + is_accepted
        verified = self._memory * self._verified[kind] + 1
        self._accepted[kind], self._verified[kind] = accepted, verified
        rate = accepted / verified
        self.rates[kind] = rate
        self._logits[kind] = _logit(rate)
        return min(max(bias + LEARNING_RATE * (is_accepted - chance), -MAX_BIAS), MAX_BIAS)

    def check_invariants(self) -> None:
        """Rates are rates."""
        assert all(verified > 0 for verified in self._verified)
        assert ((self.rates >= 0) & (self.rates <= 1 + 1e-9)).all()


def _logit(rate: float) -> float:
    rate = min(max(rate, _LEAST), 1 - _LEAST)
    return math.log(rate / (1 - rate))

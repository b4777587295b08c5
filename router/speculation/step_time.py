"""How long a step takes with so many tokens, learnt from steps: see `dispatch.cost_fit`.

    seconds = fixed + num_tokens * per_token + (verifying, where there are drafts)

The tokens are those of sequences and drafts alike, so that batches that grow and shrink teach
what drafts would cost. What verifying costs beside its tokens is learnt by doing it.
"""

from collections.abc import Callable

import numpy as np

from router.dispatch.cost_fit import Fit, observe

# Before the first step: only their ratios matter, for a few steps.
_PRIOR_S = (8e-3, 2e-3, 1e-3)


class StepTime:
    """Of one engine. Not for several threads at once."""

    def __init__(self, memory_steps: int) -> None:
        self._prior = np.array(_PRIOR_S)
        self._memory = 1 - 1 / memory_steps
        self._fit = Fit.of(1, self._prior)
        self._arrays = tuple(self._fit)

    def observe(self, num_sequences: int, num_draft_tokens: int, seconds: float) -> None:
        """A step that decoded so many sequences and verified so many tokens took so long."""
        has_drafts = int(num_draft_tokens > 0)
        what = (0, num_sequences + num_draft_tokens, has_drafts)
        observe(self._arrays, self._prior, what, seconds, self._memory)

    @property
    def token_s(self) -> float:
        """What a step takes longer for each token in it."""
        return float(self._fit.costs[0, 1])

    def with_drafts(self, num_sequences: int) -> Callable[[int], float]:
        """What a step is expected to take, by the number of drafts' tokens in it."""
        fixed: float
        per_token: float
        verifying: float
        fixed, per_token, verifying = self._fit.costs[0].tolist()
        without = fixed + num_sequences * per_token

        def seconds(num_draft_tokens: int) -> float:
            if not num_draft_tokens:
                return without
            return without + verifying + num_draft_tokens * per_token

        return seconds

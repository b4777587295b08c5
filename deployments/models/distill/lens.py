"""What a draft's head says before it has learnt: what the layers that were left out would say.

The draft has a few layers of its target, and the head reads what comes out of the last one. The
target's head reads what all the others have made of that. The linear map that comes nearest to
them is fitted to some of the answers, and becomes a part of the draft's head: the tuned lens
of Belrose et al. ("Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023),
found in closed form.

    N   a row divided by the root of its mean square: a norm without its weights
    A   the map for which N(draft's last layer) @ A is nearest to what the target's head reads

    head of the draft = rows of the target's head @ A.T
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from deployments.models.distill.answers import Answer
from infra.progress import Progress

_NUM_TOKENS = 12_000
# In relation to the mean of the squares: what few tokens have said is not believed too much.
_RIDGE = 1e-3


def look_through(
    draft: Any, target: Any, answers: Sequence[Answer], seed: int, progress: Progress
) -> None:
    """Give the draft the head that its layers' place in the target calls for.

    The draft's head must be rows of the target's, its norm the target's. The first token of
    each text is not fitted to: nothing is ever drafted after it alone, and what it has in a
    Llama is a thousand times what others have.
    """
    size = target.config.hidden_size
    squares = torch.zeros(size, size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    with torch.no_grad():
        for text, part in _some(answers, seed):
            progress.report("fitting the draft's head", part)
            tokens = torch.from_numpy(text.astype(np.int64))[None]
            own = _last(draft, tokens) / draft.model.norm.weight
            own, wanted = own[1:].double(), _last(target, tokens)[1:].double()
            squares += own.T @ own
            products += own.T @ wanted
        ridge = _RIDGE * squares.diagonal().mean() * torch.eye(size, dtype=torch.float64)
        fitted = torch.linalg.solve(squares + ridge, products).float()
        draft.lm_head.weight.copy_(draft.lm_head.weight @ fitted.T)
        draft.model.norm.weight.fill_(1.0)


def _last(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the model's head reads. Shape: [num_tokens, hidden_size]."""
    hidden: torch.Tensor = model.model(input_ids=tokens, use_cache=False).last_hidden_state[0]
    return hidden


def _some(answers: Sequence[Answer], seed: int) -> Iterator[tuple[Any, float]]:
    """Texts of so many tokens in all, each with the part of those before it."""
    order = list(answers)
    random.Random(seed).shuffle(order)
    num_tokens = 0
    for answer in order:
        if num_tokens >= _NUM_TOKENS:
            return
        yield answer.tokens, num_tokens / _NUM_TOKENS
        num_tokens += len(answer.tokens)

"""Words of speculation.

A *drafter* proposes a *draft*: tokens that may come next in a sequence. The engine
*verifies* it: one step computes what it would have said after each of them. Those up to the
first that it would not have said are *accepted*, and the token it says there instead comes
with them: a draft of 4 of which 2 are accepted gives 3 tokens in one step.

The *chance* of a draft's token is that of its being accepted, given that those before it are.
Chances 0.9, 0.8, 0.5 give an expected 0.9 + 0.9 * 0.8 + 0.9 * 0.8 * 0.5 = 1.98 tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]

MAX_TOKENS = 64
"""Of any draft."""


class Draft(NamedTuple):
    """What one drafter proposes for one sequence."""

    token_ids: Sequence[int]
    kinds: Sequence[int]
    """Of each token: what it was proposed from, as `ChanceTable` tells them apart."""


NO_DRAFT = Draft((), ())

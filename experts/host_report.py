"""What an expert host says of itself to who plans its slots.

Worked example: a host of 2 slots, for a model of one layer with 3 experts, has computed 5
tokens of expert 0 in 4 requests. Its table holds [[0, 2]], `tokens` is [[5, 0, 0]] and
`activations` [[4, 0, 0]]. A second later they are [[9, 0, 1]] and [[7, 0, 1]]: in that
second expert 0 had 4 tokens in 3 activations. Reports may be lost, the counts are not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.tier_view import SlotTable
from experts.types import HostId


@dataclass(frozen=True, eq=False)
class HostReport:
    """One host at one moment."""

    host: HostId
    table: SlotTable
    """What its slots hold, as engines are told too."""
    tokens: NDArray[np.int64]  # [num_layers, num_experts]
    """Tokens computed of each logical expert since the process began."""
    activations: NDArray[np.int64]  # [num_layers, num_experts]
    """Requests that had such tokens: how often its weights were needed."""
    activation_s: float
    """Time that an activated expert takes, as measured: reading its weights."""
    token_s: float
    """Time that each of its tokens adds."""
    queue_s: float
    """Mean wait of a request for its turn, of those since the last report."""
    busy_share: float
    """Of the time since the last report, what went to computing: 0 to 1."""
    num_engines: int
    """Links that follow the table."""
    num_requests: int
    """Answered since the process began, whatever the status."""
    is_leaving: bool
    """It wants its copies moved away, and is gone when it has none."""

    def __post_init__(self) -> None:
        assert self.tokens.shape == self.activations.shape
        assert len(self.tokens) == len(self.table.held)

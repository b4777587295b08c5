"""What computes the routed experts of an engine, as its layers see it.

A `Tier` is made once for each engine rank, when its model is built, and used by all
layers. `begin` and `finish` come in pairs, from the one thread that runs the model.
"""

from typing import NewType, Protocol

import torch

Ticket = NewType("Ticket", int)


class Tier(Protocol):
    """Computes routed experts somewhere; no call of it fails a request."""

    def begin(
        self, layer: int, rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> Ticket:
        """Have the rows of a layer computed; returns before they are.

        `layer` is the transformer's. Shapes: `rows` [num_tokens, hidden_size], `weights`
        and `experts` [num_tokens, top_k]. They stay as they are until `finish`.
        """

    def finish(self, ticket: Ticket, out: torch.Tensor) -> None:
        """Wait for what was begun, and write each token's weighted sum of its experts.

        `out` has the shape and type of `rows`.
        """

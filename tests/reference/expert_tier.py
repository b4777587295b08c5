"""Routed experts computed one by one, as the formula has it."""

from pathlib import Path

import torch
from torch.nn.functional import linear, silu

from deployments.experts.in_engine.tier import Ticket, TierConfig
from tests.builders.moe_checkpoints import EXPERTS_FILE


class SlowTier:
    """Computes all of a layer in `finish`, in float32, and counts."""

    def __init__(self, config: TierConfig) -> None:
        self._layers = torch.load(Path(config.model_path, EXPERTS_FILE))
        self._begun: dict[int, tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self.num_calls = 0

    def begin(
        self, layer: int, rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> Ticket:
        self.num_calls += 1
        assert not self._begun, "one layer after the other"
        self._begun[self.num_calls] = (layer, rows, weights, experts)
        return Ticket(self.num_calls)

    def finish(self, ticket: Ticket, out: torch.Tensor) -> None:
        layer, rows, weights, experts = self._begun.pop(ticket)
        w13, w2 = self._layers[layer]
        for token in range(len(rows)):
            total = torch.zeros(rows.shape[1])
            for weight, expert in zip(weights[token], experts[token], strict=True):
                gate, up = linear(rows[token], w13[expert]).chunk(2)
                total += weight * linear(silu(gate) * up, w2[expert]).float()
            out[token] = total.to(out.dtype)

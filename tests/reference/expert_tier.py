"""Routed experts computed one by one, as the formula has it."""

from pathlib import Path

import torch
from torch.nn.functional import linear, silu

from deployments.experts.checkpoint import tensors_of
from deployments.experts.in_engine.tier import Ticket, TierConfig
from experts.checkpoint.reader import CheckpointReader


class SlowTier:
    """Computes all of a layer in `finish`, in float32, and counts."""

    def __init__(self, config: TierConfig) -> None:
        self._checkpoint = CheckpointReader.open(Path(config.model_path))
        self._to_moe_layer = {
            layer: number
            for number, layer in enumerate(self._checkpoint.config.transformer_layers)
        }
        self._begun: dict[int, tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self.num_calls = 0

    def begin(
        self, layer: int, rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> Ticket:
        """See `Tier`; nothing is computed yet."""
        assert not self._begun, "one layer after the other"
        self.num_calls += 1
        self._begun[self.num_calls] = (self._to_moe_layer[layer], rows, weights, experts)
        return Ticket(self.num_calls)

    def finish(self, ticket: Ticket, out: torch.Tensor) -> None:
        """See `Tier`."""
        layer, rows, weights, experts = self._begun.pop(ticket)
        for token in range(len(rows)):
            total = torch.zeros(rows.shape[1])
            for weight, expert in zip(weights[token], experts[token], strict=True):
                gate, up, down = tensors_of(self._checkpoint.expert(layer, int(expert)))
                inner = silu(linear(rows[token], gate)) * linear(rows[token], up)
                total += weight * linear(inner, down).float()
            out[token] = total.to(out.dtype)

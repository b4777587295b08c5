"""The two ops by which a compiled model calls its expert tier.

Compilation must not trace into them: they talk to other processes. What `finish` waits
for is begun before it, since it takes the ticket; the shared experts' output is an
argument of `finish`, so that they are computed in between.
"""

import torch
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import direct_register_custom_op

from deployments.experts.in_engine.tier import Ticket, Tier

_NOTHING_BEGUN = -1

_tiers: list[Tier] = []


def register(tier: Tier) -> int:
    """The number by which ops name the tier."""
    if tier not in _tiers:
        _tiers.append(tier)
    return _tiers.index(tier)


def _begin(
    rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, tier: int, layer: int
) -> torch.Tensor:
    # Runs that only measure memory, or compile: nobody reads what they compute.
    if get_forward_context().attn_metadata is None:
        return torch.tensor([_NOTHING_BEGUN])
    return torch.tensor([_tiers[tier].begin(layer, rows, weights, experts)])


def _begin_fake(
    rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, tier: int, layer: int
) -> torch.Tensor:
    return torch.empty(1, dtype=torch.int64)


def _finish(
    ticket: torch.Tensor, rows: torch.Tensor, shared: torch.Tensor | None, tier: int
) -> torch.Tensor:
    number = int(ticket[0])
    if number == _NOTHING_BEGUN:
        return torch.zeros_like(rows)
    out = torch.empty_like(rows)
    _tiers[tier].finish(Ticket(number), out)
    return out


def _finish_fake(
    ticket: torch.Tensor, rows: torch.Tensor, shared: torch.Tensor | None, tier: int
) -> torch.Tensor:
    return torch.empty_like(rows)


direct_register_custom_op("coterie_experts_begin", _begin, fake_impl=_begin_fake)
direct_register_custom_op("coterie_experts_finish", _finish, fake_impl=_finish_fake)

begin = torch.ops.vllm.coterie_experts_begin
finish = torch.ops.vllm.coterie_experts_finish

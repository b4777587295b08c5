"""The two ops by which a compiled model calls its expert tier.

Compilation must not trace into them: they talk to other processes. What `finish` waits
for is begun before it, since it takes the ticket; the shared experts' output is an
argument of `finish`, so that they are computed in between.

Of tensor-parallel ranks each has all tokens. Each asks for the experts of a part of them and
leaves the others 0; the model adds up the ranks' outputs in any case.
"""

from typing import NamedTuple

import torch
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import direct_register_custom_op

from deployments.experts.in_engine.tier import Ticket, Tier

_NOTHING_BEGUN = -1


class Rank(NamedTuple):
    """Which of the engine's tensor-parallel ranks this process is."""

    rank: int
    num_ranks: int

    def part(self, num_tokens: int) -> slice:
        """The tokens that this rank asks for. Together they are all, each once."""
        first, end = (num_tokens * (self.rank + i) // self.num_ranks for i in (0, 1))
        return slice(first, end)

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of its tokens. Shape: [num_tokens, ...]."""
        return rows if self.num_ranks == 1 else rows[self.part(len(rows))]


_tiers: list[tuple[Tier, Rank]] = []


def register(tier: Tier, rank: Rank) -> int:
    """The number by which ops name the tier."""
    if (tier, rank) not in _tiers:
        _tiers.append((tier, rank))
    return _tiers.index((tier, rank))


def _begin(
    rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, tier: int, layer: int
) -> torch.Tensor:
    # Runs that only measure memory, or compile: nobody reads what they compute.
    if get_forward_context().attn_metadata is None:
        return torch.tensor([_NOTHING_BEGUN])
    own, rank = _tiers[tier]
    ticket = own.begin(layer, rank.of(rows), rank.of(weights), rank.of(experts))
    return torch.tensor([ticket])


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
    own, rank = _tiers[tier]
    out = torch.empty_like(rows) if rank.num_ranks == 1 else torch.zeros_like(rows)
    own.finish(Ticket(number), rank.of(out))
    return out


def _finish_fake(
    ticket: torch.Tensor, rows: torch.Tensor, shared: torch.Tensor | None, tier: int
) -> torch.Tensor:
    return torch.empty_like(rows)


direct_register_custom_op("coterie_experts_begin", _begin, fake_impl=_begin_fake)
direct_register_custom_op("coterie_experts_finish", _finish, fake_impl=_finish_fake)

begin = torch.ops.vllm.coterie_experts_begin
finish = torch.ops.vllm.coterie_experts_finish

"""A feed-forward network carved into a shared expert and routed ones.

What Qwen2-MoE computes, and what is written so that it computes this:

    carved    sum over shared neurons  +  sum over active experts of weight_e * expert_e
    Qwen2-MoE sigmoid(g . x) * shared  +  sum over active experts of p_e * expert_e

g is zero, so the shared expert's down projection is written doubled; the p_e of
the active experts sum to 1 (`norm_topk_prob`), so those of the experts are
written times num_active, and weight_e = num_active * p_e is near 1.
"""

from dataclasses import dataclass

import torch

from deployments.models.carve.dense_model import DenseLayer

SHARED_SCALE = 2.0


@dataclass(frozen=True)
class Partition:
    """Which neuron is where.

    Shapes: `shared` [shared_size], `experts` [num_experts, expert_size]; together
    each neuron once.
    """

    shared: torch.Tensor
    experts: torch.Tensor

    def check_invariants(self) -> None:
        """Each neuron has one place."""
        places = torch.cat([self.shared, self.experts.flatten()])
        assert places.sort().values.equal(torch.arange(len(places)))

    def expert_of(self) -> torch.Tensor:
        """Expert of each neuron, num_experts for shared ones. Shape: [num_neurons]."""
        num_experts, size = self.experts.shape
        expert_of = torch.empty(len(self.shared) + num_experts * size, dtype=torch.long)
        expert_of[self.shared] = num_experts
        expert_of[self.experts.flatten()] = torch.arange(num_experts).repeat_interleave(size)
        return expert_of


@dataclass(frozen=True)
class CarvedFfn:
    """A partition, its gate, and the down projection fitted to both.

    Shapes: `gate` [num_experts, hidden]; `down` [hidden, num_neurons], its columns
    in the order of the dense network and without the scales of the written one.
    """

    partition: Partition
    num_active: int
    gate: torch.Tensor
    down: torch.Tensor

    def output(self, layer: DenseLayer, ffn_input: torch.Tensor) -> torch.Tensor:
        """Shape: [..., hidden], both. Computes all neurons and masks: quicker on a CPU
        than choosing, and the same sum."""
        weights = expert_weights(self.gate, self.num_active, ffn_input)
        active = layer.neurons(ffn_input).mul_(weights[..., self.partition.expert_of()])
        found: torch.Tensor = active @ self.down.T
        return found

    def scales(self) -> torch.Tensor:
        """What each column of `down` is multiplied with when written. Shape: [num_neurons]."""
        num_experts = len(self.partition.experts)
        is_shared = self.partition.expert_of() == num_experts
        return torch.where(is_shared, SHARED_SCALE, float(self.num_active))

    def rounded(self, dtype: torch.dtype) -> "CarvedFfn":
        """Itself as it comes back from weights written in `dtype`."""
        scales = self.scales()
        down = (self.down * scales).to(dtype).float() / scales
        gate = self.gate.to(dtype).float()
        return CarvedFfn(self.partition, self.num_active, gate, down)


def expert_weights(
    gate: torch.Tensor, num_active: int, ffn_input: torch.Tensor
) -> torch.Tensor:
    """0 for inactive experts, near 1 for active ones, and in the end 1 for the shared one.

    Shape: `ffn_input` [..., hidden] -> [..., num_experts + 1].
    """
    probabilities = (ffn_input @ gate.T).softmax(-1)
    top, chosen = probabilities.topk(num_active, dim=-1)
    weights = torch.zeros(*probabilities.shape[:-1], len(gate) + 1)
    weights.scatter_(-1, chosen, num_active * top / top.sum(-1, keepdim=True))
    weights[..., -1] = 1.0
    return weights


def whole(partition: Partition, down: torch.Tensor) -> CarvedFfn:
    """The same network with all experts active: what the dense one computes."""
    num_experts = len(partition.experts)
    return CarvedFfn(partition, num_experts, torch.zeros(num_experts, len(down)), down)

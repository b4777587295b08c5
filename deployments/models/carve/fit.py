"""From what a dense layer does on calibration text to a carved one.

Three closed-form steps, each on the inputs that the layer will meet behind the
layers carved before it:

1. partition: the neurons that contribute most are shared; the others are
   clustered by which tokens they contribute to
2. gate: least squares from the input to how much each expert would be missed
3. down projection: least squares from the neurons that are active to what the
   dense model has in its residual stream there, held near the dense weights

The third moves what inactive experts would have said, as far as it can be told
from the active ones, into those, and takes back part of the error of the layers
before (as pruning by layers does: SparseGPT, Frantar and Alistarh, 2023).
"""

import torch

from deployments.models.carve.balanced_clusters import balanced_clusters
from deployments.models.carve.dense_model import DenseLayer
from deployments.models.carve.ffn import CarvedFfn, Partition, expert_weights, whole
from deployments.models.carve.settings import Cut

_CLUSTERED_TOKENS = 2048
# How many tokens of evidence the prior weighs: a zero gate, the dense down projection.
_GATE_PRIOR_TOKENS = 64
_DOWN_PRIOR_TOKENS = 8192
# The gate's logits are so small that the active experts weigh nearly the same.
_LOGIT_SIZE = 2.0**-6
_LEAST_NORM = 1e-3


def fit_ffn(
    layer: DenseLayer, inputs: torch.Tensor, targets: torch.Tensor, cut: Cut, seed: int
) -> CarvedFfn:
    """A carved network for the inputs it will meet.

    Shape: `inputs`, `targets` [num_tokens, hidden]; `targets` is what is to be
    added to the residual stream there. With all experts active it is the dense
    network, unfitted. Memory: 12 bytes * num_tokens * num_neurons.
    """
    neurons = layer.neurons(inputs)
    partition = partition_of(layer, neurons, cut, seed)
    if cut.num_active == cut.num_experts:
        return whole(partition, layer.down)
    gate = fit_gate(inputs, expert_norms(layer, neurons, partition))
    active = neurons * expert_weights(gate, cut.num_active, inputs)[:, partition.expert_of()]
    down = fit_down(layer.down, active, targets)
    return CarvedFfn(partition, cut.num_active, gate, down)


def partition_of(layer: DenseLayer, neurons: torch.Tensor, cut: Cut, seed: int) -> Partition:
    """Shape: `neurons` [num_tokens, num_neurons]."""
    sizes = layer.down.norm(dim=0)
    energy = neurons.square().sum(0) * sizes.square()
    order = energy.sort(descending=True, stable=True).indices
    shared, others = (part.sort().values for part in order.tensor_split([cut.shared_size]))
    step = max(len(neurons) // _CLUSTERED_TOKENS, 1)
    features = torch.nn.functional.normalize(neurons[::step, others].abs().T, dim=1)
    clusters = balanced_clusters(features.numpy(), cut.num_experts, seed)
    return Partition(shared, others[torch.from_numpy(clusters)])


def expert_norms(
    layer: DenseLayer, neurons: torch.Tensor, partition: Partition
) -> torch.Tensor:
    """Norm of each expert's output for each token.

    Shape: `neurons` [num_tokens, num_neurons] -> [num_tokens, num_experts].
    """
    norms = [
        (neurons[:, members] @ layer.down[:, members].T).norm(dim=1)
        for members in partition.experts
    ]
    return torch.stack(norms, dim=1)


def fit_gate(inputs: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """A gate whose logits grow with how much an expert would be missed.

    Shape: `inputs` [num_tokens, hidden], `norms` [num_tokens, num_experts] ->
    [num_experts, hidden].
    """
    # The logarithm, since small norms have to be told apart as well as large ones.
    missed = (norms + _LEAST_NORM * norms.mean()).log()
    above_mean = missed - missed.mean(dim=1, keepdim=True)
    gate = _ridge(inputs, above_mean, _GATE_PRIOR_TOKENS).T
    size = (inputs @ gate.T).square().mean().sqrt()
    return gate * (_LOGIT_SIZE / size.clamp_min(torch.finfo(size.dtype).tiny))


def fit_down(down: torch.Tensor, active: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A down projection near `down` that brings `active` neurons to `targets`.

    Shape: `active` [num_tokens, num_neurons], `targets` [num_tokens, hidden];
    [hidden, num_neurons], both.
    """
    return down + _ridge(active, targets - active @ down.T, _DOWN_PRIOR_TOKENS).T


def _ridge(inputs: torch.Tensor, outputs: torch.Tensor, prior_tokens: int) -> torch.Tensor:
    """Weights b that minimise |inputs b - outputs|^2 and stay small.

    The penalty is what `prior_tokens` more rows like `inputs`, uncorrelated and
    of output 0, would add. Shape: [n, a], [n, b] -> [a, b].
    """
    moment = (inputs.T @ inputs).double()
    power = moment.diagonal().clone()
    # An input that was never seen keeps its weight at 0, and the system soluble.
    power += 1e-4 * power.mean() + torch.finfo(torch.float32).tiny
    moment.diagonal().add_(power, alpha=prior_tokens / len(inputs))
    factor = torch.linalg.cholesky(moment)
    return torch.cholesky_solve((inputs.T @ outputs).double(), factor).float()

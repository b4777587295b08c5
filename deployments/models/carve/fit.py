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
before (as pruning by layers does, SparseGPT, Frantar and Alistarh, 2023).
"""

from collections.abc import Iterator

import torch

from deployments.models.carve.balanced_clusters import balanced_clusters
from deployments.models.carve.dense_model import DenseLayer
from deployments.models.carve.ffn import CarvedFfn, Partition, neuron_weights, whole
from deployments.models.carve.settings import Cut

_CHUNK_TOKENS = 2048
_CLUSTERED_TOKENS = 4096
_GATE_RIDGE = 1e-3
_DOWN_RIDGE = 1e-2
# The gate's logits are so small that the active experts weigh nearly the same.
_LOGIT_SIZE = 2.0**-6


def partition_of(layer: DenseLayer, inputs: torch.Tensor, cut: Cut, seed: int) -> Partition:
    """Shape: `inputs` [num_tokens, hidden]."""
    sizes = layer.down.norm(dim=0)
    energy = torch.zeros(cut.num_neurons)
    for chunk in _chunks(inputs):
        energy += (layer.neurons(chunk) * sizes).square().sum(0)
    shared, others = _split(energy, cut.shared_size)
    step = max(len(inputs) // _CLUSTERED_TOKENS, 1)
    sample = (layer.neurons(inputs[::step]) * sizes)[:, others].abs()
    features = torch.nn.functional.normalize(sample.T, dim=1)
    clusters = balanced_clusters(features.numpy(), cut.num_experts, seed)
    return Partition(shared, others[torch.from_numpy(clusters)])


def _split(energy: torch.Tensor, num_shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = energy.sort(descending=True, stable=True).indices
    return order[:num_shared].sort().values, order[num_shared:].sort().values


def gate_of(layer: DenseLayer, inputs: torch.Tensor, partition: Partition) -> torch.Tensor:
    """Shape: `inputs` [num_tokens, hidden] -> [num_experts, hidden]."""
    num_experts, hidden = len(partition.experts), inputs.shape[1]
    moment = torch.zeros(hidden, hidden)
    cross = torch.zeros(hidden, num_experts)
    for chunk in _chunks(inputs):
        missed = _norms(layer, chunk, partition)
        moment += chunk.T @ chunk
        cross += chunk.T @ (missed - missed.mean(dim=1, keepdim=True))
    gate = _ridge(moment, cross, _GATE_RIDGE).T
    size = (gate @ moment * gate).sum() / (len(inputs) * num_experts)
    return gate * (_LOGIT_SIZE / size.sqrt().clamp_min(1e-12))


def _norms(layer: DenseLayer, inputs: torch.Tensor, partition: Partition) -> torch.Tensor:
    """Norm of each expert's output. Shape: `inputs` [n, hidden] -> [n, num_experts]."""
    values = layer.neurons(inputs)
    norms = [
        (values[:, members] @ layer.down[:, members].T).norm(dim=1)
        for members in partition.experts
    ]
    return torch.stack(norms, dim=1)


def down_of(
    layer: DenseLayer,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    partition: Partition,
    gate: torch.Tensor,
    num_active: int,
) -> torch.Tensor:
    """Shape: `inputs`, `targets` [num_tokens, hidden] -> [hidden, num_neurons]."""
    num_neurons = layer.down.shape[1]
    moment = torch.zeros(num_neurons, num_neurons)
    cross = torch.zeros(num_neurons, inputs.shape[1])
    for chunk, target in zip(_chunks(inputs), _chunks(targets), strict=True):
        weights = neuron_weights(partition, gate, num_active, chunk)
        active = layer.neurons(chunk).mul_(weights)
        moment += active.T @ active
        cross += active.T @ (target - active @ layer.down.T)
    return layer.down + _ridge(moment, cross, _DOWN_RIDGE).T


def fit_ffn(
    layer: DenseLayer, inputs: torch.Tensor, targets: torch.Tensor, cut: Cut, seed: int
) -> CarvedFfn:
    """A carved network for the inputs it will meet.

    Shape: `inputs`, `targets` [num_tokens, hidden]; `targets` is what is to be
    added to the residual stream there. With all experts active it is the dense
    network, unfitted.
    """
    partition = partition_of(layer, inputs, cut, seed)
    if cut.num_active == cut.num_experts:
        return whole(partition, layer.down)
    gate = gate_of(layer, inputs, partition)
    down = down_of(layer, inputs, targets, partition, gate, cut.num_active)
    return CarvedFfn(partition, cut.num_active, gate, down)


def _ridge(moment: torch.Tensor, cross: torch.Tensor, strength: float) -> torch.Tensor:
    """Minimises |X b - y|^2 + strength * mean(diag X'X) * |b|^2. Shape: as `cross`."""
    system = moment.double()
    system.diagonal().add_(strength * system.diagonal().mean().clamp_min(1e-12))
    factor = torch.linalg.cholesky(system)
    return torch.cholesky_solve(cross.double(), factor).float()


def _chunks(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from rows.split(_CHUNK_TOKENS)

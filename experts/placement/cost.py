"""What a copy costs its host, and how long hosts take. Pure functions.

Each step the dispatcher sends an expert's tokens to one of its c copies, all alike often,
or splits them over more where they are many (`split_tokens` of one step to each):

    k         = min(c, max(1, ceil(tokens / activations / split_tokens)))  copies in a step
    copy cost = activations * k / c * activation_s + tokens / c * token_s

It is the share of the time for which the copy keeps its host busy; a host's time is the
sum over its copies. A layer's step ends with its slowest host, and layers follow each other:

    imbalance = sum over layers of the slowest host's time / sum of the hosts' mean time

Worked example: 100 activations of 4 tokens each a second, 20 us an activation, 0.5 us a
token. One copy: 2.0 + 0.2 = 2.2 ms in a second; of two copies each 1.1 ms. If from 2
tokens on they are split, each of two copies is active in every step: 2.0 + 0.1 = 2.1 ms.

To balance activated experts, not tokens, in decode is what METRO and Janus propose.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experts.placement.hosts import HostSpec
from experts.placement.load import Load
from experts.types import EMPTY_SLOT, ExpertMap

Floats = NDArray[np.float64]


def copy_costs(
    load: Load, layer: int, hosts: Sequence[HostSpec], split_tokens: float | None = None
) -> Floats:
    """Of each expert of a layer, by its number of copies, on each host; 0 for no copies.

    `split_tokens` None: never split. Shape: [num_experts, num_hosts + 1, num_hosts].
    """
    copies = np.arange(1, len(hosts) + 1)
    activations, tokens = _per_copy(load, layer, copies[:, None], split_tokens)
    cost = activations[..., None] * [spec.activation_s for spec in hosts] + tokens[
        ..., None
    ] * [spec.token_s for spec in hosts]  # [num_hosts, num_experts, num_hosts]
    none = np.zeros((1, *cost.shape[1:]))
    return np.ascontiguousarray(np.concatenate([none, cost]).transpose(1, 0, 2))


def host_times(
    expert_map: ExpertMap,
    load: Load,
    hosts: Sequence[HostSpec],
    split_tokens: float | None = None,
) -> Floats:
    """Busy share of each host, in each layer. Shape: [num_layers, num_hosts].

    `hosts` are the map's, in its order. An expert without a copy costs nothing.
    """
    assert expert_map.hosts == tuple(spec.host for spec in hosts)
    times = np.zeros((expert_map.num_layers, len(hosts)))
    activation_s = np.array([spec.activation_s for spec in hosts])
    token_s = np.array([spec.token_s for spec in hosts])
    for layer, held in enumerate(expert_map.physical_to_logical):
        copies = np.maximum(expert_map.num_copies[layer], 1)
        activations, tokens = _per_copy(load, layer, copies, split_tokens)
        slots = np.flatnonzero(held != EMPTY_SLOT)
        host, expert = expert_map.slot_to_host[slots], held[slots]
        cost = activations[expert] * activation_s[host] + tokens[expert] * token_s[host]
        np.add.at(times[layer], host, cost)
    return times


def slowest_time(times: Floats) -> float:
    """Of the slowest hosts of all layers together. `times`: [num_layers, num_hosts]."""
    return float(times.max(axis=1).sum())


def mean_time(times: Floats) -> float:
    """Of the hosts on the average, all layers together."""
    return float(times.mean(axis=1).sum())


def imbalance(times: Floats) -> float:
    """Slowest over mean host time, from 1 on; 1 where there is nothing to do."""
    mean = mean_time(times)
    return slowest_time(times) / mean if mean > 0 else 1.0


def _per_copy(
    load: Load, layer: int, copies: NDArray[np.integer], split_tokens: float | None
) -> tuple[Floats, Floats]:
    """Activations and tokens a second of one copy, by expert; shapes as numpy makes them."""
    activations = load.activations_per_s[layer]
    tokens = load.tokens_per_s[layer]
    per_step = np.divide(tokens, activations, out=np.ones_like(tokens), where=activations > 0)
    used = np.minimum(copies, np.maximum(1, np.ceil(per_step / (split_tokens or math.inf))))
    return activations * used / copies, tokens / copies

"""Placement in plain loops, and by trying everything: the slow twin of
`experts.placement`."""

import itertools
import math
from collections.abc import Iterator, Sequence

from experts.placement.hosts import HostSpec
from experts.placement.load import Load

Placement = Sequence[Sequence[int]]
"""The experts of each host, in one layer."""


def busy(
    placement: Placement,
    load: Load,
    layer: int,
    hosts: Sequence[HostSpec],
    split_tokens: float | None = None,
) -> list[float]:
    """Each host's time, copy by copy."""
    everywhere = [expert for experts in placement for expert in experts]
    times = [0.0] * len(hosts)
    for host, experts in enumerate(placement):
        for expert in experts:
            tokens = float(load.tokens_per_s[layer, expert])
            activations = float(load.activations_per_s[layer, expert])
            copies = everywhere.count(expert)
            per_step = tokens / activations if activations else 1
            used = math.ceil(per_step / split_tokens) if split_tokens else 1
            used = min(copies, max(1, used))
            times[host] += activations * used / copies * hosts[host].activation_s
            times[host] += tokens / copies * hosts[host].token_s
    return times


def placements(num_experts: int, sizes: Sequence[int], min_copies: int) -> Iterator[Placement]:
    """All that have each expert at least so often, and on no host twice."""
    choices = [
        [c for n in range(size + 1) for c in itertools.combinations(range(num_experts), n)]
        for size in sizes
    ]
    for placement in itertools.product(*choices):
        everywhere = list(itertools.chain(*placement))
        if all(everywhere.count(expert) >= min_copies for expert in range(num_experts)):
            yield placement


def best_slowest(
    load: Load, layer: int, hosts: Sequence[HostSpec], min_copies: int = 1
) -> float:
    """The slowest host's time in the best of all placements that use every slot."""
    num_experts = load.tokens_per_s.shape[1]
    sizes = [min(spec.num_usable_slots, num_experts) for spec in hosts]
    return min(
        max(busy(placement, load, layer, hosts))
        for placement in placements(num_experts, sizes, min_copies)
        if [len(experts) for experts in placement] == sizes
    )


def is_possible(num_experts: int, sizes: Sequence[int], min_copies: int) -> bool:
    """Whether there is any placement with so many copies on different hosts."""
    return next(placements(num_experts, sizes, min_copies), None) is not None

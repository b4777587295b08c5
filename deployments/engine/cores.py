"""Which cores of a node the ranks of a CPU engine replica are bound to.

Threads are bound for good when an engine starts, and engines know nothing of each
other. So each replica plans for all the ranks that its node may get, and takes the run
of cores to which the fewest living ranks are bound (`Scratch.claim_cores` counts them).
Four cores, two replicas of one rank each: core 0 is left to the gateway, the first
replica takes core 1, the second core 2. In the place of one that ends, the next takes
its core.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deployments.settings import ModelSection
from infra.errors import ConfigError


@dataclass(frozen=True)
class NodeCores:
    """The cores of a node, and who shares them."""

    cores: Sequence[int]
    """Those that this process may use."""

    num_ranks: int = 0
    """CPU ranks that the node may get, of all replicas of all models; 0 where only the
    replica that asks is known of."""

    num_bound: Mapping[int, int] = field(default_factory=Counter)
    """Living ranks that are bound to a core. Key: core."""


def num_ranks_to_share(sections: Sequence[ModelSection]) -> int:
    """CPU ranks that share out the cores between them: those that ask for none by number.
    An expert host counts as a rank. A draft replica does not: it has one core, which may be
    another's, as it computes mostly while its engines wait."""
    num_hosts = sum(s.experts.most for s in sections if s.has_expert_tier)
    return num_hosts + sum(
        section.most * section.num_ranks
        for section in sections
        if section.cpu_cores_per_rank is None and not section.num_cpus_per_rank
    )


def plan_cores(section: ModelSection, node: NodeCores) -> list[list[int]]:
    """The cores of each rank of one replica. Shape: [num_ranks, num_cores_of_rank].

    In this order: `cpu_cores_per_rank` as it stands; as many cores as Ray sets aside for
    a rank (`num_cpus_per_rank`); an equal share for each rank that the node may get. The
    first core is left to gateway and scheduler where it can be spared: a step waits for its
    slowest thread, so one that shares its core slows all of them. (vLLM by itself wants a
    NUMA node for each rank.) Raises ConfigError where there are fewer cores than ranks of
    the replica.
    """
    if section.cpu_cores_per_rank is not None:
        return section.cpu_cores_per_rank
    num_ranks = section.num_ranks
    if len(node.cores) < num_ranks:
        raise ConfigError(
            f"models.{section.name}: {num_ranks} ranks need as many cores, "
            f"this node offers {len(node.cores)}; lower tensor_parallel_size"
        )
    share, is_one_spared = _share(section, len(node.cores), max(node.num_ranks, num_ranks))
    ordered = sorted(node.cores)[is_one_spared:]
    run = _freest_run(ordered, share * num_ranks, node.num_bound)
    return [run[rank * share : (rank + 1) * share] for rank in range(num_ranks)]


def _share(section: ModelSection, num_cores: int, num_sharing: int) -> tuple[int, bool]:
    """Cores of each rank, so many that the replica's ranks find them; and whether the
    first core is left to others: not where that leaves room for a rank less."""
    if section.num_cpus_per_rank:
        asked = math.ceil(section.num_cpus_per_rank)
        share = min(asked, num_cores // section.num_ranks)
        return share, num_cores % (share * section.num_ranks) > 0
    is_one_spared = num_cores > num_sharing
    return max(1, (num_cores - is_one_spared) // num_sharing), is_one_spared


def _freest_run(cores: list[int], length: int, num_bound: Mapping[int, int]) -> list[int]:
    """The first of the runs of this length to which the fewest ranks are bound."""
    runs = [cores[start : start + length] for start in range(len(cores) - length + 1)]
    return min(runs, key=lambda run: sum(num_bound.get(core, 0) for core in run))

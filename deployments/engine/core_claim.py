"""Cores for the ranks of one replica, out of those of its node."""

import math
import os

import ray

from deployments.engine.cores import NodeCores, plan_cores
from deployments.engine.scratch import Scratch
from deployments.settings import ModelSection


def claim_ranks_cores(
    scratch: Scratch, section: ModelSection, num_cpu_ranks: int
) -> list[list[int]]:
    """Of each rank; they count as bound to them until `Scratch.free_cores`.

    `num_cpu_ranks` are those of the whole cluster. Shape: as of `plan_cores`.
    """
    cores = sorted(os.sched_getaffinity(0))
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    num_ranks = math.ceil(num_cpu_ranks / max(1, len(nodes)))
    return scratch.claim_cores(
        lambda bound: plan_cores(section, NodeCores(cores, num_ranks, bound))
    )

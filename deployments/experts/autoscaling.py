"""How many expert hosts there should be, by how busy those are that there are.

    wanted = ceil(mean busy share * hosts / 0.6)

Hosts need idle time, since the slowest of them ends a layer's step. Worked example: 3 hosts
that are busy 0.9, 0.8 and 0.7 of the time do 2.4 hosts' work: 4 hosts do it at 0.6 each.
Serve keeps the number between its limits, and waits before it follows.
"""

import math
from collections.abc import Collection
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from experts.settings import ExpertsSection

BUSY = "busy_share"
"""The metric that expert hosts record."""
TARGET_BUSY_SHARE = 0.6
_UPSCALE_DELAY_S, _DOWNSCALE_DELAY_S = 15.0, 300.0
_LOOK_BACK_S = 15.0


def wanted_hosts(busy_shares: Collection[float], num_hosts: int) -> int:
    """At least one. `busy_shares` are those of some of the hosts; where none has told its
    own, as many as there are."""
    if not busy_shares:
        return max(1, num_hosts)
    mean = sum(busy_shares) / len(busy_shares)
    # What differs by less is alike.
    return max(1, math.ceil(mean * num_hosts / TARGET_BUSY_SHARE - 1e-9))


def policy(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """What Serve calls."""
    found = context.aggregated_metrics or {}
    busy_shares = list(found.get(BUSY, {}).values())
    num_hosts = context.current_num_replicas or context.target_num_replicas
    return wanted_hosts(busy_shares, num_hosts), {}


def scaling_options(experts: ExpertsSection) -> dict[str, Any]:
    """Of the hosts' Serve deployment: a number, or limits and a policy."""
    if experts.fewest == experts.most:
        return {"num_replicas": experts.num_hosts}
    config = AutoscalingConfig(
        min_replicas=experts.fewest,
        initial_replicas=experts.num_hosts,
        max_replicas=experts.most,
        upscale_delay_s=_UPSCALE_DELAY_S,
        downscale_delay_s=_DOWNSCALE_DELAY_S,
        look_back_period_s=_LOOK_BACK_S,
        policy=AutoscalingPolicy(policy_function=f"{__name__}:policy"),
    )
    return {"autoscaling_config": config}

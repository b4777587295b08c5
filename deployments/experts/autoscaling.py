"""How many expert hosts there should be, by how busy those are that there are.

    wanted = ceil(mean busy share * hosts / target)

Worked example: 3 hosts that are busy 0.9, 0.8 and 0.7 of the time do 2.4 hosts' work: 4
hosts do it at 0.6 each. Serve keeps the number between its limits, and waits before it
follows.
"""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from experts.settings import HostScalingSection

BUSY = "busy_share"
"""The metric that expert hosts record."""
_MAX_TELL_S = 10.0
"""Longest time between two reports of a host."""


def wanted_hosts(busy_shares: Collection[float], num_hosts: int, target: float) -> int:
    """At least one. `busy_shares` are those of some of the hosts; where none has told its
    own, as many as there are."""
    if not busy_shares:
        return max(1, num_hosts)
    mean = sum(busy_shares) / len(busy_shares)
    # What differs by less is alike.
    return max(1, math.ceil(mean * num_hosts / target - 1e-9))


class BusySharePolicy:
    """What Serve makes once and calls."""

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many hosts are wanted, and nothing to remember."""
        found = context.aggregated_metrics or {}
        busy_shares = list(found.get(BUSY, {}).values())
        num_hosts = context.current_num_replicas or context.target_num_replicas
        return wanted_hosts(busy_shares, num_hosts, self._target), {}


class Limits(NamedTuple):
    """Of a deployment's number of replicas."""

    fewest: int
    at_first: int
    most: int


def scaling_options(limits: Limits, scaling: HostScalingSection) -> dict[str, Any]:
    """Of the hosts' Serve deployment: limits, also where both are one number, and a policy.

    A replica that was made without them never tells how busy it is, whatever is changed
    later (ray 2.60, `serve/_private/replica.py`: `set_autoscaling_config`).
    """
    config = AutoscalingConfig(
        min_replicas=limits.fewest,
        initial_replicas=limits.at_first,
        max_replicas=limits.most,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        look_back_period_s=scaling.look_back_period_s,
        metrics_interval_s=min(_MAX_TELL_S, scaling.look_back_period_s / 2),
        policy=AutoscalingPolicy(
            policy_function=f"{__name__}:{BusySharePolicy.__name__}",
            policy_kwargs={"target": scaling.target_busy_share},
        ),
    )
    return {"autoscaling_config": config}

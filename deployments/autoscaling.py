"""How many replicas of a deployment there should be: what all of them have in common, and
the policy of those that go by how busy their replicas are.

    wanted = ceil(mean busy share * replicas / target)

Worked example: 3 replicas that are busy 0.9, 0.8 and 0.7 of the time do 2.4 replicas' work: 4
do it at 0.6 each. Serve keeps the number between its limits, and waits before it follows.

Engine replicas go by more: `deployments.engine.autoscaling`.
"""

import math
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from infra.busy_scaling import BusyScalingSection

BUSY = "busy_share"
"""The metric that such replicas record."""
_MAX_TELL_S = 10.0
"""Longest time between two reports of a replica."""


class Limits(NamedTuple):
    """Of a deployment's number of replicas."""

    fewest: int
    at_first: int
    most: int


class Delays(Protocol):
    """How quick Serve is to follow a policy; see `BusyScalingSection`."""

    @property
    def upscale_delay_s(self) -> float:
        """Before there are more."""
        ...

    @property
    def downscale_delay_s(self) -> float:
        """Before there are fewer."""
        ...

    @property
    def look_back_period_s(self) -> float:
        """Over how long metrics are averaged."""
        ...


def scaling_options(
    limits: Limits, delays: Delays, policy: AutoscalingPolicy, **more: Any
) -> dict[str, Any]:
    """Of a Serve deployment: limits, also where both are one number, and a policy.

    A replica that was made without them never tells how busy it is, whatever is changed
    later (ray 2.60, `serve/_private/replica.py`: `set_autoscaling_config`).
    """
    config = AutoscalingConfig(
        min_replicas=limits.fewest,
        initial_replicas=limits.at_first,
        max_replicas=limits.most,
        upscale_delay_s=delays.upscale_delay_s,
        downscale_delay_s=delays.downscale_delay_s,
        look_back_period_s=delays.look_back_period_s,
        metrics_interval_s=min(_MAX_TELL_S, delays.look_back_period_s / 2),
        policy=policy,
        **more,
    )
    return {"autoscaling_config": config}


def wanted_replicas(busy_shares: Collection[float], num_replicas: int, target: float) -> int:
    """At least one. `busy_shares` are those of some of the replicas; where none has told its
    own, as many as there are."""
    if not busy_shares:
        return max(1, num_replicas)
    mean = sum(busy_shares) / len(busy_shares)
    # What differs by less is alike.
    return max(1, math.ceil(mean * num_replicas / target - 1e-9))


class BusySharePolicy:
    """What Serve makes once and calls."""

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many replicas are wanted, and nothing to remember."""
        found = context.aggregated_metrics or {}
        busy_shares = list(found.get(BUSY, {}).values())
        num_replicas = context.current_num_replicas or context.target_num_replicas
        return wanted_replicas(busy_shares, num_replicas, self._target), {}


def busy_options(limits: Limits, scaling: BusyScalingSection) -> dict[str, Any]:
    """Of a Serve deployment whose replicas record how busy they are."""
    policy = AutoscalingPolicy(
        policy_function=f"{__name__}:{BusySharePolicy.__name__}",
        policy_kwargs={"target": scaling.target_busy_share},
    )
    return scaling_options(limits, scaling, policy)

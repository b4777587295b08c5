"""How many engine replicas Serve is to run: `router.scaling`, fed by what replicas record.

Without a replica nobody records anything. Then gateways that hold requests call `wake`
through Serve's handle: the call waits there for a replica, and Serve counts it.
"""

import time
from collections.abc import Callable
from typing import Any

from ray.serve.config import AutoscalingContext, AutoscalingPolicy

from deployments.autoscaling import Limits, scaling_options
from deployments.settings import ModelSection
from router.scaling.engine_demand import EngineScaler, EngineSignals, Fleet
from router.scaling.settings import EngineScalingSection

HELD = "num_held"
"""Metric: sequences that wait at gateways. Each gateway tells all replicas, so each replica
has the same number."""
START = "start_s"
"""Metric: how long the replica took to start."""
_USUAL_START_S = 30.0
"""Where no replica has told."""


class EngineScalingPolicy:
    """What Serve makes once and calls."""

    def __init__(
        self,
        max_num_seqs: int,
        targets: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        section = EngineScalingSection.model_validate(targets)
        self._scaler = EngineScaler(max_num_seqs, section)
        self._clock = clock
        self._start_s = _USUAL_START_S

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many replicas are wanted, and nothing to remember."""
        return self._scaler.wanted(self._clock(), self._fleet(context)), {}

    def _fleet(self, context: AutoscalingContext) -> Fleet:
        found = context.aggregated_metrics or {}
        by_name = {name: found.get(name, {}) for name in EngineSignals._fields}
        replicas = [
            EngineSignals(*(by_id.get(replica, 0.0) for by_id in by_name.values()))
            for replica in by_name["num_sequences"]
        ]
        num_held = max(found.get(HELD, {}).values(), default=0.0)
        num_replicas = max(context.current_num_replicas, context.target_num_replicas)
        if not context.current_num_replicas:
            num_held = max(num_held, context.total_queued_requests or 0.0)
        self._start_s = max(found.get(START, {}).values(), default=self._start_s)
        return Fleet(replicas, num_replicas, num_held, self._start_s)


def engine_scaling_options(model: ModelSection) -> dict[str, Any]:
    """Of the model's Serve deployment."""
    targets = model.autoscaling
    policy = AutoscalingPolicy(
        policy_function=f"{__name__}:{EngineScalingPolicy.__name__}",
        policy_kwargs={
            "max_num_seqs": model.max_num_seqs,
            "targets": targets.model_dump(mode="json"),
        },
    )
    return scaling_options(
        Limits(model.fewest, model.num_replicas, model.most),
        targets,
        policy,
        downscale_to_zero_delay_s=targets.downscale_to_zero_delay_s,
    )

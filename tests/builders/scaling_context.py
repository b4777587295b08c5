"""What Serve's controller gives an autoscaling policy."""

from collections.abc import Mapping

from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingContext


def scaling_context(
    num_replicas: int, metrics: Mapping[str, Mapping[str, float]], num_queued: float = 0.0
) -> AutoscalingContext:
    """Of a deployment of so many running replicas: what each has recorded, by the metric's
    name and the replica; and calls that wait in handles."""
    return AutoscalingContext(
        deployment_id=DeploymentID("some"),
        deployment_name="some",
        app_name="coterie",
        current_num_replicas=num_replicas,
        target_num_replicas=num_replicas,
        running_replicas=[],
        total_num_requests=lambda: num_queued,
        total_queued_requests=lambda: num_queued,
        aggregated_metrics=lambda: metrics,
        raw_metrics=dict,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )

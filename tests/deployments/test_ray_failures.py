"""What Ray raises at control calls, and what the operator gets."""

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors
from ray.serve._private.common import DeploymentID

from deployments.ray_failures import ray_failures, translated_ray
from infra.errors import (
    CapacityError,
    ConfigError,
    CoterieError,
    DeadlineError,
    EngineError,
    NoReplicaError,
)


def of_task(cause: Exception) -> ray_errors.RayTaskError:
    return ray_errors.RayTaskError("status", "Traceback", cause)


CASES = [
    (ray_errors.RayActorError(), NoReplicaError),
    (ray_errors.ActorDiedError(), NoReplicaError),
    (ray_errors.ActorUnavailableError("away", None), NoReplicaError),
    (ray_errors.NodeDiedError("gone"), NoReplicaError),
    (ray_errors.WorkerCrashedError(), NoReplicaError),
    (serve_errors.ReplicaUnavailableError("r"), NoReplicaError),
    (serve_errors.DeploymentUnavailableError(DeploymentID("engine")), NoReplicaError),
    (serve_errors.RequestCancelledError("r"), NoReplicaError),
    (serve_errors.BackPressureError(9, 8), CapacityError),
    (ray_errors.PendingCallsLimitExceeded("full"), CapacityError),
    (ray_errors.OutOfMemoryError("full"), CapacityError),
    (ray_errors.ActorUnschedulableError("full"), CapacityError),
    (ray_errors.GetTimeoutError(), DeadlineError),
    (TimeoutError(), DeadlineError),
    (ConnectionRefusedError(), ConfigError),
    (ray_errors.RpcError("away", 14), ConfigError),
    (ray_errors.AuthenticationError("token"), ConfigError),
    (of_task(EngineError("dead")), EngineError),
    (of_task(KeyError("x")), CoterieError),
    (ray_errors.RaySystemError("x"), CoterieError),
    (serve_errors.RayServeException("x"), CoterieError),
]


@pytest.mark.parametrize(("raised", "expected"), CASES, ids=lambda v: type(v).__name__)
def test_each_failure_of_ray_has_a_class_of_ours(
    raised: Exception, expected: type[CoterieError]
) -> None:
    with pytest.raises(CoterieError) as failed, ray_failures():
        raise raised
    assert type(failed.value) is expected
    assert failed.value.message


def test_back_pressure_keeps_its_hint() -> None:
    error = translated_ray(serve_errors.BackPressureError(9, 8, retry_after_s=7))
    assert error.retry_after_s == 7


@pytest.mark.parametrize("error", [KeyError("x"), BrokenPipeError()])
def test_what_is_not_rays_passes_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)), ray_failures():
        raise error

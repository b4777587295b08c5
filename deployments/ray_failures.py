"""What Ray and Serve raise at control calls, as errors of ours.

Requests of clients go past Ray: the links carry them. Control calls do not (deploying,
status, removal), and there an operator reads what went wrong.

| Ray 2.60 raises | becomes |
|---|---|
| `AuthenticationError`, `ConnectionError`, `RpcError` | `ConfigError` |
| what tells that an actor, worker, node or replica is gone | `NoReplicaError` |
| what tells of queues, memory or resources that are full | `CapacityError` |
| `TimeoutError`, `GetTimeoutError` | `DeadlineError` |
| `RayTaskError` | as its cause |
| any other | `CoterieError` |
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from infra.errors import (
    CapacityError,
    ConfigError,
    CoterieError,
    DeadlineError,
    NoReplicaError,
)

_MAX_MESSAGE_CHARS = 500
_STATUS = "`coterie status` tells how the replicas are"

# The first class that fits counts.
_CLASS_OF: tuple[tuple[tuple[type[BaseException], ...], type[CoterieError], str], ...] = (
    (
        (ray_errors.AuthenticationError,),
        ConfigError,
        "the Ray cluster asks for another token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
    ),
    ((TimeoutError,), DeadlineError, f"the cluster did not answer in time; {_STATUS}"),
    (
        (ConnectionError, ray_errors.LocalRayletDiedError, ray_errors.RpcError),
        ConfigError,
        "the Ray cluster does not answer; is it running?",
    ),
    (
        (
            serve_errors.BackPressureError,
            ray_errors.PendingCallsLimitExceeded,
            ray_errors.OutOfMemoryError,
            ray_errors.ActorUnschedulableError,
            ray_errors.TaskUnschedulableError,
        ),
        CapacityError,
        f"the cluster has no room; {_STATUS}",
    ),
    (
        (
            ray_errors.RayActorError,
            ray_errors.NodeDiedError,
            ray_errors.WorkerCrashedError,
            serve_errors.ReplicaUnavailableError,
            serve_errors.DeploymentUnavailableError,
            serve_errors.RequestCancelledError,
        ),
        NoReplicaError,
        f"the replica is gone; {_STATUS}",
    ),
)
_RAISED_BY_RAY = (
    ray_errors.RayError,
    serve_errors.RayServeException,
    ConnectionError,
    TimeoutError,
)


@contextmanager
def ray_failures() -> Iterator[None]:
    """Turn what Ray raises in this block into errors of ours."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output has left
    except _RAISED_BY_RAY as error:
        raise translated_ray(error) from error


def translated_ray(error: BaseException) -> CoterieError:
    """The error that stands for one of Ray's; see the table."""
    if isinstance(error, CoterieError):
        return error
    cause = getattr(error, "cause", None)
    if isinstance(error, ray_errors.RayTaskError) and isinstance(cause, Exception):
        return translated_ray(cause)
    for raised, cls, advice in _CLASS_OF:
        if isinstance(error, raised):
            return cls(advice, retry_after_s=getattr(error, "retry_after_s", None))
    first_line = (str(error) or type(error).__name__).split("\n", 1)[0]
    return CoterieError(f"Ray failed: {first_line[:_MAX_MESSAGE_CHARS]}")

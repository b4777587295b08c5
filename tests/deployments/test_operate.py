"""What an operator is told of a deployment."""

import pytest
from ray.serve._private.common import DeploymentID, DeploymentStatus, ReplicaState
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import DeploymentDetails, ReplicaDetails

from deployments import operate
from deployments.operate import _state


@pytest.mark.parametrize(
    ("replicas", "num_wanted", "told"),
    [
        # One takes another's place: that one is not wanted.
        ([ReplicaState.RUNNING, ReplicaState.STOPPING], 1, (1, 1)),
        # The second has not been made yet.
        ([ReplicaState.RUNNING], 2, (1, 2)),
        ([ReplicaState.STARTING, ReplicaState.RUNNING], 2, (1, 2)),
        ([ReplicaState.STOPPING], 0, (0, 0)),
    ],
)
def test_those_wanted_are_what_serve_aims_at_and_not_what_there_is(
    replicas: list[ReplicaState], num_wanted: int, told: tuple[int, int]
) -> None:
    found = DeploymentDetails.model_construct(
        name="engine-m",
        status=DeploymentStatus.UPDATING,
        message="",
        target_num_replicas=num_wanted,
        replicas=[ReplicaDetails.model_construct(state=state) for state in replicas],
    )
    state = _state("app", found, with_details=False)
    assert (state.num_running, state.num_wanted) == told
    assert (state.name, state.status) == ("engine-m", "UPDATING")


def test_a_deployment_whose_replicas_have_all_gone_says_nothing_of_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*_: object) -> list[object]:
        raise DeploymentUnavailableError(DeploymentID("gateway", "app"))

    monkeypatch.setattr(operate, "_ask", nobody)
    found = DeploymentDetails.model_construct(
        name="gateway",
        status=DeploymentStatus.HEALTHY,
        message="",
        target_num_replicas=2,
        replicas=[ReplicaDetails.model_construct(state=ReplicaState.RUNNING)] * 2,
    )
    assert _state("app", found, with_details=True).details == []

"""What an operator does with the application: deploy, watch, remove.

All of it needs a connection to the Ray cluster; `connected` gives one. Ray
reads how it must authenticate when it is imported: for a local cluster call
`local_cluster.use_auth_token` before this module is imported.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationDetails, DeploymentDetails, ServeInstanceDetails

from deployments import local_cluster
from deployments.app import build
from deployments.deployment_names import GATEWAY, engine_deployment
from deployments.ray_failures import ray_failures, translated_ray
from deployments.settings import ClusterSection, ModelSection
from infra.errors import ConfigError, NoReplicaError

_POLL_S = 0.2


@dataclass(frozen=True)
class DeploymentState:
    """A deployment as Serve sees it, with what its replicas say of themselves.

    `num_wanted` is what Serve aims at: one that is being replaced does not count, one
    that has not been made yet does.
    """

    name: str
    status: str
    message: str
    num_running: int
    num_wanted: int
    details: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def connected(section: ClusterSection) -> Iterator[None]:
    """A connection to the cluster of this section for the time of a block.

    Raises ConfigError where no cluster is there; what Ray raises in the block becomes
    an error of ours (`ray_failures`). What is printed in it goes to the standard error:
    Ray prints what its autoscaler and its nodes have to say, whatever it is told
    (2.60, `listen_error_messages`).
    """
    address = section.address
    if address is None:
        cluster = local_cluster.find(section)
        if cluster is None:
            raise ConfigError("no local cluster is running; start one with `coterie up`")
        address = cluster.address
    # Serve tells what it does line by line; the commands have their own words.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} (cluster.address): {error}"
        ) from error
    except RayError as error:
        raise translated_ray(error) from error
    try:
        with contextlib.redirect_stdout(sys.stderr), ray_failures():
            yield
    finally:
        ray.shutdown()


def deploy(
    sections: dict[str, Any],
    section: ClusterSection,
    on_state: Callable[[list[DeploymentState]], None],
) -> None:
    """Deploy the application and wait until all of it runs.

    `on_state` hears of every change on the way. Raises ConfigError where it
    fails or takes longer than `startup_timeout_s`; what was deployed stays, so
    that its logs can be read.
    """
    # Gateways open their own doors, so Serve's proxies have nothing to do.
    serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False})
    outcome: list[BaseException] = []
    app = build(sections)
    worker = threading.Thread(
        target=_run_app, args=(app, section.app_name, outcome), daemon=True
    )
    worker.start()
    deadline = time.monotonic() + section.startup_timeout_s
    while True:
        states = deployment_states(section.app_name)
        on_state(states)
        if not worker.is_alive():
            break
        if time.monotonic() > deadline:
            raise ConfigError(_not_up(states, f"not up within {section.startup_timeout_s:g} s"))
        worker.join(_POLL_S)
    if outcome:
        raise ConfigError(_not_up(states, str(outcome[0])))
    _wait_answering([ModelSection.model_validate(m) for m in sections["models"]], section)


def deployment_states(app_name: str, *, with_details: bool = False) -> list[DeploymentState]:
    """All deployments of the application; none if it is not deployed."""
    found = _application(app_name)
    if found is None:
        return []
    return [_state(app_name, each, with_details) for each in found.deployments.values()]


def explain(app_name: str, request_id: str) -> list[dict[str, Any]]:
    """Why each call of a request went where it did, by any gateway, in their order:
    `router.explanation.Explanation`, as builtins. Empty where no gateway knows it.

    Raises ConfigError where the application is not deployed.
    """
    if _application(app_name) is None:
        raise ConfigError(f"the application {app_name} is not deployed")
    answers = _ask(app_name, GATEWAY, "explain", request_id)
    calls = [call for answer in answers if isinstance(answer, list) for call in answer]
    return sorted(calls, key=lambda call: call["decided_at_s"])


def remove(section: ClusterSection) -> None:
    """Take the application away, if it is there; open streams get their drain time."""
    if section.app_name in serve.status().applications:
        serve.delete(section.app_name)


def _run_app(app: serve.Application, name: str, outcome: list[BaseException]) -> None:
    try:
        serve.run(app, name=name, route_prefix=None)
    except Exception as error:  # carried to the thread that waits
        outcome.append(error)


def _application(app_name: str) -> ApplicationDetails | None:
    """What `serve.status` is made of; that leaves out how many replicas are wanted."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    return ServeInstanceDetails(**client.get_serve_details()).applications.get(app_name)


def _state(app_name: str, found: DeploymentDetails, with_details: bool) -> DeploymentState:
    num_running = sum(replica.state == "RUNNING" for replica in found.replicas)
    is_asked = with_details and num_running
    details = _ask_status(app_name, found.name) if is_asked else []
    return DeploymentState(
        name=found.name,
        status=found.status.value,
        message=found.message,
        num_running=num_running,
        num_wanted=found.target_num_replicas,
        details=details,
    )


def _ask_status(app_name: str, deployment: str) -> list[dict[str, Any]]:
    """What each replica says of itself; one that does not answer is left out."""
    answers: list[Any] = []
    # All of them may have gone since Serve last looked.
    with contextlib.suppress(NoReplicaError), ray_failures():
        answers = _ask(app_name, deployment, "status")
    return [answer for answer in answers if isinstance(answer, dict)]


def _ask(app_name: str, deployment: str, method: str, *args: str) -> list[Any]:
    """Each replica's answer, or what it raised."""
    handle = serve.get_deployment_handle(deployment, app_name)
    try:
        response = handle.broadcast(method, *args)
        found: list[Any] = response.results(timeout_s=10, return_exceptions=True)
        return found
    finally:
        # Its router has a thread of its own, which would end the whole process if it
        # asked Ray for something after Ray's shutdown.
        handle.shutdown()


def _wait_answering(models: list[ModelSection], section: ClusterSection) -> None:
    """Wait until a gateway has links to each model's engines."""
    deadline = time.monotonic() + 30
    missing = {model.name for model in models if not model.scales_to_zero}
    while time.monotonic() < deadline:
        # A gateway that is being replaced at this moment is asked again.
        for answer in _ask_status(section.app_name, GATEWAY):
            missing -= {name for name, n in answer["num_ready_replicas"].items() if n}
        if not missing:
            return
        time.sleep(0.05)
    names = ", ".join(engine_deployment(name) for name in sorted(missing))
    raise ConfigError(f"the gateway reaches no replica of {names}")


def _not_up(states: list[DeploymentState], why: str) -> str:
    reasons = [f"{s.name}: {_reason(s.message)}" for s in states if s.message]
    return "\n".join([f"the cluster did not come up: {why}", *reasons])


def _reason(message: str) -> str:
    """What a replica raised, without the stack that Serve wraps around it."""
    lines = [line for line in message.splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else message

"""The Serve deployments that an application is made of."""

from pathlib import Path
from typing import Any

from deployments.app import build


def bound_deployments(state_dir: Path, *models: dict[str, Any]) -> dict[str, Any]:
    """Of the application that is built of these models, by name."""
    built = build({"models": list(models), "cluster": {"state_dir": str(state_dir)}})
    found = {}
    waiting = [built]
    while waiting:
        deployment = waiting.pop()._bound_deployment
        found[deployment.name] = deployment
        for argument in deployment.init_args:
            inner = argument.values() if isinstance(argument, dict) else [argument]
            waiting += [each for each in inner if hasattr(each, "_bound_deployment")]
    return found

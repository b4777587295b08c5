"""The directory of a model that a command works on."""

from pathlib import Path

from coterie.cli.stages import Stages
from coterie.errors import ConfigError
from deployments.models.resolve import resolve_model
from deployments.settings import ClusterSection


def local_model(reference: str, stages: Stages) -> Path:
    """Raises `ConfigError` for one that is not on this machine."""
    model = resolve_model(reference, ClusterSection().state_dir, stages)
    if not model.is_local:
        raise ConfigError(
            f"{reference!r} is a hub id; download the model first and name its directory"
        )
    return Path(model.path)

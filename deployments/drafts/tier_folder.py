"""What an engine's process must know of its draft replicas, and vLLM's configuration must not
have in it: see `deployments.experts.tier_folder`, of whose kind the folder is."""

import os
from pathlib import Path

from deployments.experts.tier_folder import TierFolder
from infra.errors import ConfigError

FOLDER_VARIABLE = "COTERIE_DRAFT_TIER_FOLDER"


def folder_of_environment() -> TierFolder:
    """What the process that has started this one names. Raises ConfigError."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named is None:
        raise ConfigError(f"{FOLDER_VARIABLE} does not say where the draft tier's files are")
    return TierFolder(Path(named))


def draft_identity(model_path: str) -> str:
    """By which an engine and a draft replica know that they are of the same model: the last
    part of its path, as nodes may keep models at different places."""
    return f"drafts-for-{Path(model_path).name}"

"""What an engine replica does for its expert tier: arguments and environment for its engine,
and word of the hosts that come and go."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.experts.host_feed import follow_hosts
from deployments.experts.in_engine.plugin import ASKED_VARIABLE
from deployments.experts.tier_config import TierConfig
from deployments.experts.tier_folder import FOLDER_VARIABLE, TierFolder
from deployments.experts.tier_plan import plan_tier
from deployments.settings import ModelSection

log = logging.getLogger(__name__)


class EngineTier:
    """Of one engine replica; `hosts` is the handle of its expert hosts."""

    def __init__(self, folder: Path, secret: str, hosts: DeploymentHandle[Any]) -> None:
        self._folder = TierFolder(folder)
        self._folder.write_secret(secret)
        self._folder.write_hosts([])
        follow_hosts(hosts, self._folder.write_hosts)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that the engine's processes must start with."""
        return {ASKED_VARIABLE: "1", FOLDER_VARIABLE: str(self._folder.path)}


def plan_tier_args(section: ModelSection, model_path: str) -> dict[str, Any]:
    """Keyword arguments for vLLM's `AsyncEngineArgs`; empty where experts stay in the engine.

    Raises ConfigError where expert hosts cannot serve the model.
    """
    if not section.has_expert_tier:
        return {}
    plan = plan_tier(section, model_path)
    return TierConfig(str(plan.model_path), plan.dtype, section.dispatch).engine_arguments()

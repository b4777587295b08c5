"""What an engine replica does for its expert tier: arguments and environment for its engine,
and word of the hosts that come and go."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.engine.plan import Device
from deployments.experts.host_feed import follow_hosts
from deployments.experts.in_engine.plugin import ASKED_VARIABLE
from deployments.experts.tier_config import TierConfig
from deployments.experts.tier_folder import FOLDER_VARIABLE, TierFolder
from deployments.experts.tier_plan import plan_tier
from deployments.experts.waiting import WAITING_ENVIRONMENT
from deployments.settings import ModelSection
from infra.errors import ConfigError

_PLUG_INS, _PLUG_IN = "vllm.general_plugins", "coterie_experts"


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
        where = {ASKED_VARIABLE: "1", FOLDER_VARIABLE: str(self._folder.path)}
        return where | WAITING_ENVIRONMENT


def plan_tier_args(
    section: ModelSection, model_path: str, device: Device = "cpu"
) -> dict[str, Any]:
    """Keyword arguments for vLLM's `AsyncEngineArgs`; empty where experts stay in the engine.

    Raises ConfigError where expert hosts cannot serve the model.
    """
    if not section.has_expert_tier:
        return {}
    _check_plug_in()
    plan = plan_tier(section, model_path)
    args = TierConfig(str(plan.model_path), plan.dtype, section.dispatch).engine_arguments()
    if device == "cuda":
        # A CUDA graph cannot hold a layer that asks other processes.
        args["enforce_eager"] = True
    return args


def _check_plug_in() -> None:
    """vLLM finds it by what `pip install` has written down."""
    if not entry_points(group=_PLUG_INS, name=_PLUG_IN):
        raise ConfigError(
            f"vLLM does not find the plug-in {_PLUG_IN}, by which it reaches expert hosts; "
            "install coterie again in this environment"
        )

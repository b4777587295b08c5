"""From a model's section and its files to what its expert hosts are: pure but for reading
`config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from deployments.settings import ModelSection
from experts.checkpoint.model_config import read_config
from experts.checkpoint.types import Dtype, MoeConfig
from experts.placement.hosts import fewest_hosts
from infra.errors import ConfigError


@dataclass(frozen=True)
class TierPlan:
    """What engine, hosts and director of a model agree upon."""

    model_path: Path
    config: MoeConfig
    dtype: Dtype
    """The engine's, in which rows come to the hosts."""
    num_slots: int
    """Of each host, in each layer."""


def plan_tier(section: ModelSection, model_path: str) -> TierPlan:
    """What the section makes of the model in this folder.

    Raises ConfigError where it is no model that expert hosts can serve.
    """
    path = Path(model_path)
    if not path.is_dir():
        raise ConfigError(
            f"models.{section.name}: expert hosts read a local folder, and {section.model} is "
            "none; download it and name the folder, or set experts.placement to engine"
        )
    config = read_config(path)
    num_slots = section.experts.num_slots(config.shape.num_experts)
    return TierPlan(path, config, _dtype(section, path), num_slots)


def check_tier(section: ModelSection, model_path: str) -> TierPlan:
    """The same, and as few hosts as there may be have room for every expert.

    Raises ConfigError where they have not.
    """
    plan = plan_tier(section, model_path)
    num_experts = plan.config.shape.num_experts
    try:
        fewest_hosts([plan.num_slots] * section.experts.fewest, num_experts)
    except ConfigError as error:
        raise ConfigError(f"models.{section.name}.experts: {error.message}") from None
    return plan


def _dtype(section: ModelSection, path: Path) -> Dtype:
    """As vLLM chooses it on CPUs: the checkpoint's, and bfloat16 for float32."""
    found: str = section.dtype
    if found == "auto":
        said = json.loads((path / "config.json").read_text(encoding="utf-8"))
        named = said.get("dtype") or said.get("torch_dtype") or "float32"
        found = "bfloat16" if named == "float32" else named
    for dtype in get_args(Dtype):
        if found == dtype:
            return dtype  # type: ignore[no-any-return]
    raise ConfigError(
        f"models.{section.name}: expert hosts compute in {', '.join(get_args(Dtype))}, and the "
        f"checkpoint's dtype is {found}; set dtype"
    )

"""What an engine's configuration says of speculation; imports neither torch nor vLLM."""

from collections.abc import Mapping
from typing import Any

from router.speculation.settings import SpeculationSection

PROPOSER = "deployments.drafts.in_engine.proposer.Proposer"
"""The class that vLLM asks for drafts."""

_KEY = "coterie_speculation"


def speculation_arguments(section: SpeculationSection) -> dict[str, Any]:
    """For vLLM's `EngineArgs`; empty where there is no speculation. JSON types alone."""
    if section.engine:
        return {"speculative_config": dict(section.engine)}
    if not section.drafters:
        return {}
    return {
        "speculative_config": {
            "method": "custom_class",
            "model": PROPOSER,
            "num_speculative_tokens": section.max_tokens,
        },
        "additional_config": {_KEY: section.model_dump(mode="json")},
    }


def section_of(additional_config: object) -> SpeculationSection:
    """From vLLM's `additional_config`."""
    assert isinstance(additional_config, Mapping)
    return SpeculationSection.model_validate(additional_config[_KEY])

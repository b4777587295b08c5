"""What an engine's configuration says of its expert tier; imports neither torch nor vLLM.

It has nothing in it that differs between two replicas of a model, since vLLM keeps compiled
models under a hash of it; what does is in a `TierFolder`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from experts.checkpoint.types import Dtype
from infra.errors import ConfigError
from router.dispatch.settings import DispatchSection

LOAD_FORMAT = "coterie_experts"
"""vLLM's `load_format` for a checkpoint but for its routed experts."""

_KEY = "coterie_experts"


@dataclass(frozen=True)
class TierConfig:
    """Under a key of its own in vLLM's `additional_config`."""

    model_path: str
    dtype: Dtype
    """The engine's."""
    dispatch: DispatchSection

    @classmethod
    def of(cls, additional_config: object) -> "TierConfig | None":
        """From vLLM's `additional_config`; None where experts stay in the engine.

        Raises ConfigError for a dtype that no host computes in.
        """
        if not isinstance(additional_config, Mapping) or _KEY not in additional_config:
            return None
        fields = additional_config[_KEY]
        dtype = fields["dtype"]
        if dtype not in get_args(Dtype):
            raise ConfigError(
                f"expert hosts compute in {', '.join(get_args(Dtype))}, not in {dtype}"
            )
        dispatch = DispatchSection.model_validate(fields["dispatch"])
        return cls(fields["model_path"], dtype, dispatch)

    def engine_arguments(self) -> dict[str, Any]:
        """For vLLM's `EngineArgs`; JSON types alone."""
        fields = {
            "model_path": self.model_path,
            "dtype": self.dtype,
            "dispatch": self.dispatch.model_dump(mode="json"),
        }
        return {
            "dtype": self.dtype,
            "load_format": LOAD_FORMAT,
            "additional_config": {_KEY: fields},
        }

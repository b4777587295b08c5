"""What computes the routed experts of an engine, and how its process gets hold of it.

A `Tier` is made once for each engine rank, when its model is built, and used by all
layers. `begin` and `finish` come in pairs, from the one thread that runs the model.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import torch

from infra.errors import ConfigError

CONFIG_KEY = "coterie_experts"
"""Under it the engine's `additional_config` says which tier to use."""

Ticket = NewType("Ticket", int)


@dataclass(frozen=True)
class TierConfig:
    """What the engine's configuration says of its expert tier. JSON types alone."""

    opener: str
    """`package.module:function`, which makes the tier from the two below."""
    model_path: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, additional_config: object) -> "TierConfig | None":
        """From vLLM's `additional_config`; None where experts stay in the engine."""
        if not isinstance(additional_config, Mapping) or CONFIG_KEY not in additional_config:
            return None
        return cls(**additional_config[CONFIG_KEY])

    def as_additional_config(self) -> dict[str, Any]:
        """For vLLM's `additional_config`."""
        fields = {
            "opener": self.opener,
            "model_path": self.model_path,
            "options": dict(self.options),
        }
        return {CONFIG_KEY: fields}


class Tier(Protocol):
    """Computes routed experts somewhere; no call of it fails a request."""

    def begin(
        self, layer: int, rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> Ticket:
        """Have the rows of a layer computed; returns before they are.

        `layer` is the transformer's. Shapes: `rows` [num_tokens, hidden_size], `weights`
        and `experts` [num_tokens, top_k]. They stay as they are until `finish`.
        """

    def finish(self, ticket: Ticket, out: torch.Tensor) -> None:
        """Wait for what was begun, and write each token's weighted sum of its experts.

        `out` has the shape and type of `rows`.
        """


Opener = Callable[[TierConfig], Tier]

_tiers: dict[str, Tier] = {}


def open_tier(config: TierConfig) -> Tier:
    """The tier of this process for the configuration, made at the first call.

    Raises ConfigError where there is no such opener, and what the opener raises.
    """
    key = config.model_path
    if key not in _tiers:
        _tiers[key] = _opener(config.opener)(config)
    return _tiers[key]


def _opener(name: str) -> Opener:
    module, _, function = name.partition(":")
    try:
        found: Opener = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the expert tier's opener {name} cannot be found: {error}") from None
    return found

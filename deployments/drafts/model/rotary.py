"""How fast each pair of a head's numbers turns with the position (rotary embeddings).

Models made for long texts turn their slow pairs slower still: `linear` all by one factor,
`llama3` (Llama 3.1 and later) only those that turn less than a few times in the texts of the
first training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from infra.errors import ConfigError

_DEFAULT_THETA = 10_000.0


@dataclass(frozen=True)
class Slowing:
    """Pairs that turn less than `least_turns` in `num_tokens` turn `factor` times slower; those
    that turn more than `most_turns` as ever; others in between."""

    factor: float
    least_turns: float = math.inf
    most_turns: float = math.inf
    num_tokens: int = 0


@dataclass(frozen=True)
class Rotary:
    """Pair i of a head of n numbers turns by theta**(-2i / n) a position, before slowing."""

    theta: float = _DEFAULT_THETA
    slowing: Slowing | None = None

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "Rotary":
        """Of a model's configuration, as transformers writes it before or since its version 5.

        Raises ConfigError for another kind than `default`, `linear` and `llama3`.
        """
        rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
        theta = rope.get("rope_theta") or fields.get("rope_theta") or _DEFAULT_THETA
        return cls(theta, _slowing(rope))

    def frequencies(self, head_size: int) -> torch.Tensor:
        """Shape: [head_size / 2], in radians a position."""
        found = self.theta ** (-torch.arange(0, head_size, 2).float() / head_size)
        slowing = self.slowing
        if slowing is None:
            return found
        if math.isinf(slowing.least_turns):
            return found / slowing.factor
        turns = slowing.num_tokens * found / (2 * math.pi)
        kept = (turns - slowing.least_turns) / (slowing.most_turns - slowing.least_turns)
        kept = kept.clamp(0, 1)
        return found * (kept + (1 - kept) / slowing.factor)


def _slowing(rope: Mapping[str, Any]) -> Slowing | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return Slowing(rope["factor"])
    if kind == "llama3":
        return Slowing(
            rope["factor"],
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
    raise ConfigError(f"rotary positions of the type {kind!r} are not supported")

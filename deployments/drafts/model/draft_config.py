"""What a draft model's configuration says of its shape."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.drafts.model.rotary import Rotary
from infra.errors import ConfigError

EMBEDDING = "model.embed_tokens.weight"
"""In the checkpoint."""

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class DraftConfig:
    """Of a Llama-like model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rms_norm_eps: float
    rotary: Rotary
    vocab_size: int
    head_vocab_size: int
    """Tokens that it can say: fewer than it can read, where its head was reduced."""
    is_head_tied: bool
    """The head's weights are those of the embedding."""
    has_head_norms: bool = False
    """Queries and keys are normed, head by head, before they turn."""

    @property
    def head_name(self) -> str:
        """Of the head's weights in the checkpoint."""
        return EMBEDDING if self.is_head_tied else "lm_head.weight"

    @classmethod
    def read(cls, directory: Path) -> "DraftConfig":
        """Of the checkpoint in the directory.

        Raises ConfigError where there is none, or of a model that this room cannot run.
        """
        path = directory / "config.json"
        try:
            fields = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{path} cannot be read: it is no configuration")
        _check(fields, path)
        try:
            return _of(fields)
        except KeyError as error:
            raise ConfigError(f"{path} does not say {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _of(fields: Mapping[str, Any]) -> DraftConfig:
    num_heads, hidden_size = fields["num_attention_heads"], fields["hidden_size"]
    vocab_size = fields["vocab_size"]
    return DraftConfig(
        hidden_size=hidden_size,
        num_layers=fields["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=fields.get("num_key_value_heads") or num_heads,
        head_size=fields.get("head_dim") or hidden_size // num_heads,
        rms_norm_eps=fields["rms_norm_eps"],
        rotary=Rotary.read(fields),
        vocab_size=vocab_size,
        head_vocab_size=fields.get("draft_vocab_size") or vocab_size,
        is_head_tied=fields.get("tie_word_embeddings", False),
        has_head_norms=fields["model_type"] == "qwen3",
    )


def _check(fields: Mapping[str, Any], path: Path) -> None:
    found = fields.get("model_type")
    if found not in _MODEL_TYPES:
        raise ConfigError(
            f"{path}: a draft model is one of {', '.join(_MODEL_TYPES)}, not {found}; make one "
            "with `coterie distill`"
        )
    if fields.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{path}: hidden_act {fields['hidden_act']!r} is not supported")

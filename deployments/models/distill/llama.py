"""Llama-like models, read from a checkpoint in float32."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from deployments.models.carve.dense_model import EMBEDDING, HEAD
from deployments.models.source_files import read_config
from deployments.models.tensor_files import TensorFiles
from infra.errors import ConfigError

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def load_llama(directory: Path) -> Any:
    """The model in `directory`, 4 bytes a parameter.

    Raises `ConfigError` if its layers could not be those of a draft, or its weights are
    not there.
    """
    config = read_config(directory)
    _check_llama_like(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    files = TensorFiles(directory)
    names = [name for name in model.state_dict() if name != HEAD]
    state = {name: files.read(name) for name in names}
    state[HEAD] = state[EMBEDDING] if config.tie_word_embeddings else files.read(HEAD)
    model.load_state_dict(state, assign=True)
    # Its frequencies are computed, not read.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    if (directory / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model.eval().requires_grad_(requires_grad=False)


def _check_llama_like(config: Any) -> None:
    if config.model_type not in _MODEL_TYPES:
        raise ConfigError(
            f"a model of type {config.model_type!r} has no layers for a draft; "
            f"it must be dense and Llama-like: {', '.join(_MODEL_TYPES)}"
        )
    if getattr(config, "sliding_window", None) is not None:
        raise ConfigError("its layers attend to a window, which those of a draft do not")

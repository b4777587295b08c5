"""The draft: some layers of the target, and a head of the tokens that it can say."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from deployments.models.distill.vocabulary import Integers, to_d2t
from deployments.models.source_files import copy_travelling
from infra.errors import ConfigError

_KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
_KEPT_CONFIG = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_EMBEDDING = "model.embed_tokens.weight"


def draft_of(target: Any, layers: tuple[int, ...], ids: Integers) -> Any:
    """A model with these layers of the target, and the rows of these tokens as its head.

    A Llama, Qwen2 or Qwen3, as the target is (a Mistral's layers are a Llama's). In float32;
    all but the embeddings is trainable. What it says are rows of `ids`.
    """
    source = target.config
    kept = {name: getattr(source, name) for name in _KEPT_CONFIG if hasattr(source, name)}
    config_type, model_type = _KINDS[source.model_type]
    config = config_type(
        **kept,
        num_hidden_layers=len(layers),
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        draft = model_type(config)
        draft.lm_head = torch.nn.Linear(config.hidden_size, len(ids), bias=False)
    state = {
        name: tensor.clone()
        for name, tensor in target.state_dict().items()
        if not name.startswith("model.layers.")
    }
    state["lm_head.weight"] = state["lm_head.weight"][torch.from_numpy(ids)]
    for index, layer in enumerate(layers):
        for name, tensor in target.model.layers[layer].state_dict().items():
            state[f"model.layers.{index}.{name}"] = tensor.clone()
    draft.load_state_dict(state, assign=True)
    draft.model.rotary_emb = type(draft.model.rotary_emb)(config)
    draft.requires_grad_(requires_grad=True)
    draft.model.embed_tokens.requires_grad_(requires_grad=False)
    return draft.eval()


def trainable_state(draft: Any) -> dict[str, torch.Tensor]:
    """All of the draft's weights but the embeddings, by name."""
    return {name: t for name, t in draft.state_dict().items() if name != _EMBEDDING}


def write_draft(draft: Any, ids: Integers, source: Path, target: Path) -> None:
    """Fill the empty directory `target` with the checkpoint; weights in bfloat16.

    `source` is the target model's directory, from which the tokenizer is taken. Raises
    `ConfigError` if the disk does not take it.
    """
    num_tokens = draft.config.vocab_size
    is_reduced = len(ids) < num_tokens
    config = draft.config.to_dict() | {
        "architectures": [type(draft).__name__],
        "dtype": "bfloat16",
    }
    tensors = {
        name: tensor.detach().to(torch.bfloat16, copy=True).contiguous()
        for name, tensor in draft.state_dict().items()
    }
    if is_reduced:
        config["draft_vocab_size"] = len(ids)
        tensors["d2t"] = torch.from_numpy(to_d2t(ids))
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    try:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise ConfigError(f"{target} cannot be written: {error}") from error
    copy_travelling(source, target)

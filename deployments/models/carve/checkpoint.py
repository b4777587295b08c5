"""The carved model on disk: a Qwen2-MoE checkpoint, written tensor by tensor."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import Qwen2MoeConfig

from deployments.models.carve.dense_model import DenseLayer, DenseModel
from deployments.models.carve.ffn import CarvedFfn
from deployments.models.carve.settings import Cut
from deployments.models.source_files import copy_travelling
from infra.errors import ConfigError

_SHARD_BYTES = 2**31
_INDEX_NAME = "model.safetensors.index.json"
_KEPT_CONFIG = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_parameters",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class CheckpointWriter:
    """Files of a carved model in an empty directory; `with` writes the rest at the end.

    Holds one shard of tensors, 2 GiB at most (or one tensor, where it is larger).
    """

    def __init__(self, target: Path, dtype: torch.dtype) -> None:
        self._target = target
        self._dtype = dtype
        self._shard: dict[str, torch.Tensor] = {}
        self._shard_bytes = 0
        self._total_bytes = 0
        self._shards: list[list[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._flush()
            self._name_shards()

    def write_surroundings(self, model: DenseModel, cut: Cut) -> None:
        """Configuration, embeddings, and the files that travel along."""
        config_of(model, cut, self._dtype).save_pretrained(self._target)
        copy_travelling(model.directory, self._target)
        is_tied = model.config.tie_word_embeddings
        for name in model.files.other_names("model.layers."):
            if not (is_tied and name == "lm_head.weight"):
                self.write(name, model.files.read(name))

    def write_layer(self, index: int, layer: DenseLayer, carved: CarvedFfn) -> None:
        """All tensors of one decoder layer."""
        prefix = f"model.layers.{index}."
        for name, tensor in layer.module.state_dict().items():
            if not name.startswith("mlp."):
                self.write(prefix + name, tensor)
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(layer.module.self_attn, name)
            if linear.bias is None:
                zeros = torch.zeros(linear.weight.shape[0])
                self.write(f"{prefix}self_attn.{name}.bias", zeros)
        for name, tensor in ffn_tensors(layer, carved).items():
            self.write(f"{prefix}mlp.{name}", tensor)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor into the current shard."""
        # A copy even where the dtype is the same: its source may be a view of more.
        stored = tensor.detach().to(self._dtype, copy=True).contiguous()
        if self._shard and self._shard_bytes + stored.nbytes > _SHARD_BYTES:
            self._flush()
        self._shard[name] = stored
        self._shard_bytes += stored.nbytes
        self._total_bytes += stored.nbytes

    def _flush(self) -> None:
        path = self._target / f"{len(self._shards)}.shard"
        try:
            save_file(self._shard, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise ConfigError(f"{path.parent} cannot be written: {error}") from error
        self._shards.append(list(self._shard))
        self._shard, self._shard_bytes = {}, 0

    def _name_shards(self) -> None:
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._shards):
            final = f"model-{index + 1:05}-of-{count:05}.safetensors"
            final = "model.safetensors" if count == 1 else final
            (self._target / f"{index}.shard").rename(self._target / final)
            weight_map |= dict.fromkeys(names, final)
        if count > 1:
            value = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            (self._target / _INDEX_NAME).write_text(json.dumps(value, indent=2) + "\n")


def config_of(model: DenseModel, cut: Cut, dtype: torch.dtype) -> Qwen2MoeConfig:
    """The dense model's configuration as one of Qwen2-MoE."""
    dense = model.config
    kept: dict[str, Any] = {name: getattr(dense, name) for name in _KEPT_CONFIG}
    return Qwen2MoeConfig(
        **kept,
        architectures=["Qwen2MoeForCausalLM"],
        dtype=str(dtype).removeprefix("torch."),
        num_experts=cut.num_experts,
        num_experts_per_tok=cut.num_active,
        moe_intermediate_size=cut.expert_size,
        shared_expert_intermediate_size=cut.shared_size,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        qkv_bias=True,
    )


def ffn_tensors(layer: DenseLayer, carved: CarvedFfn) -> dict[str, torch.Tensor]:
    """Weights of the mixture by their names below `mlp.`, scaled as `ffn` says.

    Shapes: as those of Qwen2-MoE, each expert by itself.
    """
    hidden = layer.gate.shape[1]
    down = carved.down * carved.scales()
    tensors = {"gate.weight": carved.gate, "shared_expert_gate.weight": torch.zeros(1, hidden)}
    places = {"shared_expert": carved.partition.shared}
    places |= {f"experts.{e}": members for e, members in enumerate(carved.partition.experts)}
    for place, members in places.items():
        tensors[f"{place}.gate_proj.weight"] = layer.gate[members]
        tensors[f"{place}.up_proj.weight"] = layer.up[members]
        tensors[f"{place}.down_proj.weight"] = down[:, members]
    return tensors

"""From a model's `config.json` to the shape of its routed experts.

The rules are those of vLLM's model files (`vllm/model_executor/models/`), since the
engine's gate and the expert hosts must count alike.

| architecture                        | experts are in       | dense layers             |
|-------------------------------------|----------------------|--------------------------|
| MixtralForCausalLM                  | `block_sparse_moe`   | none                     |
| OlmoeForCausalLM                    | `mlp`                | none                     |
| Qwen2Moe-, Qwen3MoeForCausalLM      | `mlp`                | `mlp_only_layers`, and   |
|                                     |                      | by `decoder_sparse_step` |
| DeepseekV2-, DeepseekV3ForCausalLM  | `mlp`                | `first_k_dense_replace`, |
|                                     |                      | and by `moe_layer_freq`  |
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.checkpoint.types import MoeConfig
from experts.types import ModelShape
from infra.errors import ConfigError


@dataclass(frozen=True)
class _Architecture:
    """The keys under which `config.json` has the numbers, and the tensors' names."""

    intermediate_size: str
    has_experts: Callable[[Mapping[str, Any], int], bool]
    """Of the transformer layer of this index."""
    block: str = "mlp"
    projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")


def _always(config: Mapping[str, Any], index: int) -> bool:
    return True


def _by_sparse_step(config: Mapping[str, Any], index: int) -> bool:
    is_dense = index in (config.get("mlp_only_layers") or ())
    return not is_dense and (index + 1) % config.get("decoder_sparse_step", 1) == 0


def _after_dense(config: Mapping[str, Any], index: int) -> bool:
    first = config.get("first_k_dense_replace", 0)
    return bool(index >= first and index % config.get("moe_layer_freq", 1) == 0)


# transformers 5 writes others for some models than the models' makers did.
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_MIXTRAL = _Architecture("intermediate_size", _always, "block_sparse_moe", ("w1", "w3", "w2"))
_OLMOE = _Architecture("intermediate_size", _always)
_QWEN = _Architecture("moe_intermediate_size", _by_sparse_step)
_DEEPSEEK = _Architecture("moe_intermediate_size", _after_dense)

_ARCHITECTURES: Mapping[str, _Architecture] = {
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "MixtralForCausalLM": _MIXTRAL,
    "OlmoeForCausalLM": _OLMOE,
    "Qwen2MoeForCausalLM": _QWEN,
    "Qwen3MoeForCausalLM": _QWEN,
}


def read_config(folder: Path) -> MoeConfig:
    """What the model in this folder says of its routed experts.

    Raises:
        ConfigError: there is no `config.json`, or the expert tier cannot serve the model.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no model's configuration: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no model's configuration: it holds no object")
    return moe_config(str(folder), config)


def moe_config(name: str, config: Mapping[str, Any]) -> MoeConfig:
    """The same for a configuration that has been read.

    Raises:
        ConfigError: the expert tier cannot serve the model; says why.
    """
    architecture = _architecture(name, config)
    _refuse_unsupported(name, config)
    layers = tuple(
        index
        for index in range(_number(name, config, "num_hidden_layers"))
        if architecture.has_experts(config, index)
    )
    if not layers:
        raise ConfigError(f"{name} has no layer with routed experts: it needs no expert tier")
    gate, up, down = architecture.projections
    shape = ModelShape(
        num_layers=len(layers),
        num_experts=_number(name, config, *_NUM_EXPERTS),
        top_k=_number(name, config, "num_experts_per_tok"),
        hidden_size=_number(name, config, "hidden_size"),
        intermediate_size=_number(name, config, architecture.intermediate_size),
    )
    return MoeConfig(name, shape, layers, architecture.block, gate, up, down, "silu")


def _architecture(name: str, config: Mapping[str, Any]) -> _Architecture:
    named = config.get("architectures") or ["none"]
    for architecture in named:
        if architecture in _ARCHITECTURES:
            return _ARCHITECTURES[architecture]
    raise ConfigError(
        f"{name} is a {named[0]}: the expert tier knows {', '.join(_ARCHITECTURES)}; "
        "serve it with its experts in the engine"
    )


def _refuse_unsupported(name: str, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown method")
        raise ConfigError(
            f"{name} is quantized ({method}): the expert tier reads float32, float16 and "
            "bfloat16; give it the checkpoint that is not quantized"
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(
            f"{name} has experts with the activation {activation}: the expert tier has silu"
        )


def _number(name: str, config: Mapping[str, Any], *keys: str) -> int:
    """Under the first of the keys that there is."""
    key = next((key for key in keys if key in config), keys[0])
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{name}: `{key}` in its config.json is {value}, no positive number")
    return value

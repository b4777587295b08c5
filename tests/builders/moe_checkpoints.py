"""Random models of the architectures whose experts can be elsewhere, as transformers makes
and saves them, with the least sizes that vLLM computes on a CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experts.types import ModelShape

_COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
    # Wide enough that greedy outputs wander.
    "initializer_range": 0.2,
}
_HEADS = {
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class TinyModel:
    """A model's classes in transformers, and what the tier should find in it."""

    name: str
    settings: dict[str, Any]
    shape: ModelShape
    layers: tuple[int, ...]

    def write(
        self, folder: Path, dtype: torch.dtype = torch.float32, layout: str = "one by one"
    ) -> Any:
        """The model; saved `one by one`, `fused`, or one by one in `several files`."""
        import transformers  # noqa: PLC0415 - takes seconds

        torch.manual_seed(0)
        config = getattr(transformers, f"{self.name}Config")(**_COMMON | self.settings)
        model = getattr(transformers, f"{self.name}ForCausalLM")(config).to(dtype)
        size = "50KB" if layout == "several files" else "1GB"
        model.save_pretrained(
            folder, save_original_format=layout != "fused", max_shard_size=size
        )
        return model


def _shape(num_layers: int, num_experts: int, intermediate_size: int) -> ModelShape:
    return ModelShape(num_layers, num_experts, 2, 64, intermediate_size)


TINY_MODELS = (
    TinyModel(
        "Mixtral",
        {"num_local_experts": 4, "intermediate_size": 96},
        _shape(3, 4, 96),
        (0, 1, 2),
    ),
    TinyModel(
        "Qwen2Moe",
        {
            "num_experts": 4,
            "intermediate_size": 96,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 32,
            "decoder_sparse_step": 2,
        },
        _shape(1, 4, 48),
        (1,),
    ),
    TinyModel(
        "Qwen3Moe",
        {
            "num_experts": 4,
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "head_dim": 32,
            "mlp_only_layers": [0],
        },
        _shape(2, 4, 32),
        (1, 2),
    ),
    TinyModel(
        "Olmoe", {"num_experts": 4, "intermediate_size": 32}, _shape(3, 4, 32), (0, 1, 2)
    ),
    TinyModel(
        "DeepseekV2",
        _HEADS
        | {
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
        _shape(2, 4, 32),
        (1, 2),
    ),
    TinyModel(
        "DeepseekV3",
        _HEADS
        | {
            "n_routed_experts": 4,
            "topk_method": "noaux_tc",
            "n_group": 2,
            "topk_group": 1,
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 2,
        },
        _shape(1, 4, 32),
        (2,),
    ),
)

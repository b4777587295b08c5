"""Tiny random checkpoints of the mixture-of-experts architectures that a tier serves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EXPERTS_FILE = "experts.pt"
"""Beside the checkpoint, for twins: layer -> (w13 [E, 2I, H], w2 [E, H, I])."""

_COMMON: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    # Heads of 32, the least that vLLM's attention on CPUs takes.
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
    # Wide enough that greedy outputs wander.
    "initializer_range": 0.2,
}


def _mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM  # noqa: PLC0415

    return MixtralForCausalLM(
        MixtralConfig(**_COMMON, num_local_experts=8, num_experts_per_tok=2)
    )


def _qwen2_moe() -> Any:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM  # noqa: PLC0415

    return Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **_COMMON,
            num_experts=8,
            num_experts_per_tok=3,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=64,
        )
    )


def _qwen3_moe() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM  # noqa: PLC0415

    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **_COMMON,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            head_dim=32,
            norm_topk_prob=True,
        )
    )


def _olmoe() -> Any:
    from transformers import OlmoeConfig, OlmoeForCausalLM  # noqa: PLC0415

    return OlmoeForCausalLM(OlmoeConfig(**_COMMON, num_experts=8, num_experts_per_tok=4))


def _deepseek_v3() -> Any:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM  # noqa: PLC0415

    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **(_COMMON | {"num_hidden_layers": 3, "num_key_value_heads": 2}),
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_shared_experts=1,
            first_k_dense_replace=1,
            moe_intermediate_size=32,
            n_group=2,
            topk_group=1,
            q_lora_rank=None,
            # The sizes that vLLM has a kernel for.
            kv_lora_rank=512,
            qk_nope_head_dim=32,
            qk_rope_head_dim=64,
            v_head_dim=32,
            topk_method="noaux_tc",
        )
    )


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "olmoe": _olmoe,
    "deepseek_v3": _deepseek_v3,
}


def write_moe(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint of one of `ARCHITECTURES` in the folder, the same at each call."""
    torch.manual_seed(7)
    model = ARCHITECTURES[name]().to(dtype)
    model.save_pretrained(folder)
    found = {}
    for number, layer in enumerate(model.model.layers):
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            found[number] = (experts.gate_up_proj.data, experts.down_proj.data)
    torch.save(found, folder / EXPERTS_FILE)
    return folder

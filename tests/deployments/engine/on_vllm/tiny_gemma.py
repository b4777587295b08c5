"""A Gemma-3 of random numbers, made in a second: two kinds of layer, and an adapter."""

import json
from pathlib import Path
from typing import Any

from deployments.settings import ModelSection

MODEL = "tiny/gemma"
VOCAB_SIZE = 256
WINDOW = 96
BLOCK_SIZE = 32


def tiny_section(adapters: dict[str, str] | None = None, **engine_args: Any) -> ModelSection:
    """How the engine's tests serve it, with a cache of few blocks."""
    fixed = {"block_size": BLOCK_SIZE, "num_gpu_blocks_override": 81}
    return ModelSection(
        name="tiny",
        model=MODEL,
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=4,
        adapters=adapters or {},
        engine_args=fixed | engine_args,
    )


def write_tiny_gemma(folder: Path) -> Path:
    """Weights, configuration and a tokenizer of one word a token, in `folder`."""
    import torch  # noqa: PLC0415 - takes seconds
    from tokenizers import Tokenizer  # noqa: PLC0415
    from tokenizers.models import WordLevel  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=WINDOW,
        max_position_embeddings=2048,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
    )
    model = Gemma3ForCausalLM(config)
    model.save_pretrained(folder)
    words = WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
    return folder


def write_tiny_adapter(folder: Path) -> Path:
    """For the query projections of `write_tiny_gemma`'s model, in PEFT's format."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    folder.mkdir()
    prefix = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors = {}
    for layer in range(4):
        tensors[prefix.format(layer, "A")] = torch.randn(8, 64)
        tensors[prefix.format(layer, "B")] = torch.randn(128, 8)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "tiny",
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder

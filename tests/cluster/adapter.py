"""A LoRA adapter of random numbers: useless, but valid and easily told apart."""

import json
from pathlib import Path

from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR

RANK = 8


def write_random_adapter(folder: Path, model: str) -> Path:
    """Write it in PEFT's format, for the query and value projections of `model`."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    config = json.loads(
        (Path(resolve_model(model, STATE_DIR).path) / "config.json").read_text()
    )
    hidden = config["hidden_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    widths = {
        "q_proj": head * config["num_attention_heads"],
        "v_proj": head * config["num_key_value_heads"],
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in widths.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for side, shape in (("A", (RANK, hidden)), ("B", (width, RANK))):
                noise = torch.randn(shape, generator=generator) * 0.3
                tensors[f"{prefix}.lora_{side}.weight"] = noise
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": RANK,
                "lora_alpha": RANK,
                "target_modules": sorted(widths),
                "base_model_name_or_path": model,
                "bias": "none",
                "task_type": "CAUSAL_LM",
            }
        )
    )
    return folder

"""A draft model's weights as `few_rows` takes them."""

import numpy as np

from deployments.drafts.model.draft_config import DraftConfig
from deployments.drafts.model.few_rows import Floats, Layers, Weights8
from deployments.models.tensor_files import TensorFiles


def read_layers(files: TensorFiles, config: DraftConfig) -> Layers:
    """All of them. Raises ConfigError where one is missing."""

    def weights(*names: str) -> Weights8:
        has_bias = f"model.layers.0.{names[0]}.bias" in files
        biases = stacked([f"{name}.bias" for name in names]) if has_bias else None
        return Weights8.of(stacked([f"{name}.weight" for name in names]), biases)

    def stacked(names: list[str]) -> Floats:
        """Those of the same input joined. Shape: [num_layers, outputs of all names, ...]."""
        layers = range(config.num_layers)
        return np.stack(
            [
                np.concatenate(
                    [_numpy(files, f"model.layers.{layer}.{name}") for name in names]
                )
                for layer in layers
            ]
        )

    def of_heads(name: str, num_heads: int) -> Floats:
        return stacked([f"self_attn.{name}.weight"])[:, None].repeat(num_heads, axis=1)

    norms = [
        stacked([f"{name}.weight"]) for name in ("input_layernorm", "post_attention_layernorm")
    ]
    head_norms = np.zeros((0, 0, 0), np.float32)
    if config.has_head_norms:
        both = of_heads("q_norm", config.num_heads), of_heads("k_norm", config.num_kv_heads)
        head_norms = np.concatenate(both, axis=1)
    return Layers(
        norms=np.stack(norms, axis=1),
        head_norms=head_norms,
        last_norm=_numpy(files, "model.norm.weight"),
        qkv=weights("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=weights("self_attn.o_proj"),
        gate_up=weights("mlp.gate_proj", "mlp.up_proj"),
        down=weights("mlp.down_proj"),
        head=Weights8.of(_numpy(files, config.head_name)[None]),
        eps=config.rms_norm_eps,
    )


def _numpy(files: TensorFiles, name: str) -> Floats:
    found: Floats = files.read(name).float().numpy()
    return found

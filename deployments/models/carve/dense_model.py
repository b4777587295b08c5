"""A dense Llama-like checkpoint, one layer in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from deployments.models.source_files import read_config
from deployments.models.tensor_files import TensorFiles
from infra.errors import ConfigError

_MODEL_TYPES = ("llama", "mistral", "qwen2")
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True)
class DenseLayer:
    """One decoder layer in float32.

    Shapes: `gate` and `up` [num_neurons, hidden], `down` [hidden, num_neurons].
    """

    module: Any
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    def attend(self, hidden: torch.Tensor, positions: Any) -> torch.Tensor:
        """The residual stream behind attention. Shape: [num_sequences, length, hidden]."""
        normed = self.module.input_layernorm(hidden)
        out, _ = self.module.self_attn(
            hidden_states=normed, position_embeddings=positions, attention_mask=None
        )
        attended: torch.Tensor = hidden + out
        return attended

    def ffn_input(self, attended: torch.Tensor) -> torch.Tensor:
        """What the feed-forward network reads of the stream. Shape: as `attended`."""
        normed: torch.Tensor = self.module.post_attention_layernorm(attended)
        return normed

    def neurons(self, ffn_input: torch.Tensor) -> torch.Tensor:
        """Values of the neurons. Shape: [..., hidden] -> [..., num_neurons]."""
        gated = torch.nn.functional.silu(ffn_input @ self.gate.T)
        values: torch.Tensor = gated.mul_(ffn_input @ self.up.T)
        return values


class DenseModel:
    """Configuration, embeddings and layers of the checkpoint in a directory.

    Raises `ConfigError` if it is not a model that can be carved. Holds the
    embeddings and, while a layer is used, that layer: in float32, 4 bytes a
    parameter.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = read_config(directory)
        check_carvable(self.config)
        self.files = TensorFiles(directory)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(
                self.config, dtype=torch.float32, attn_implementation="sdpa"
            )
        # A new model is in training, and may drop out at random.
        self._layers = skeleton.eval().model.layers
        self._norm = skeleton.model.norm
        self._norm.load_state_dict({"weight": self.files.read(FINAL_NORM)}, assign=True)
        self._rotary = type(skeleton.model.rotary_emb)(self.config)
        self._embedding = self.files.read(EMBEDDING)

    @property
    def num_layers(self) -> int:
        """Decoder layers, each with a feed-forward network."""
        return len(self._layers)

    @property
    def stored_dtype(self) -> torch.dtype:
        """That of its weights on disk."""
        return self.files.read_stored(FINAL_NORM).dtype

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Shape: [num_sequences, length] -> [num_sequences, length, hidden]."""
        return self._embedding[token_ids]

    def positions(self, hidden: torch.Tensor) -> Any:
        """Rotations of the positions of sequences that begin at 0."""
        return self._rotary(hidden, torch.arange(hidden.shape[1])[None])

    def layers(self) -> Iterator[DenseLayer]:
        """Each layer in turn; the one before loses its weights."""
        for index, module in enumerate(self._layers):
            prefix = f"model.layers.{index}."
            names = [prefix + name for name in module.state_dict()]
            state = {name.removeprefix(prefix): self.files.read(name) for name in names}
            module.load_state_dict(state, assign=True)
            module.requires_grad_(requires_grad=False)
            ffn = module.mlp
            yield DenseLayer(
                module, ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight
            )
            module.to("meta")

    def log_likelihood(self, hidden: torch.Tensor, token_ids: torch.Tensor) -> float:
        """Mean logprob of each token given those before it in its sequence.

        Shape: `hidden` [num_sequences, length, hidden], behind the last layer.
        """
        head = self.files.read(HEAD) if HEAD in self.files else self._embedding
        total = 0.0
        for stream, ids in zip(hidden, token_ids, strict=True):
            logprobs = (self._norm(stream[:-1]) @ head.T).log_softmax(-1)
            total += float(logprobs.gather(1, ids[1:, None]).double().sum())
        num_sequences, length = token_ids.shape
        return total / float(num_sequences * (length - 1))


def check_carvable(config: Any) -> None:
    """Raise `ConfigError` unless Qwen2-MoE can hold all of such a model but its experts."""
    if config.model_type not in _MODEL_TYPES:
        raise ConfigError(
            f"a model of type {config.model_type!r} cannot be carved; it must be dense and "
            f"Llama-like: {', '.join(_MODEL_TYPES)}"
        )
    heads, hidden = config.num_attention_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    obstacles = {
        f"its activation is {config.hidden_act!r}, not silu": config.hidden_act != "silu",
        "its feed-forward networks have biases": getattr(config, "mlp_bias", False),
        "its attention output has a bias": getattr(config, "attention_bias", False),
        f"its heads have {head_dim} dimensions, not hidden size / heads": head_dim * heads
        != hidden,
        "some of its layers attend to a window": _has_window(config),
        "it is quantized": getattr(config, "quantization_config", None) is not None,
    }
    found = [what for what, is_so in obstacles.items() if is_so]
    if found:
        raise ConfigError(f"this model cannot be carved into Qwen2-MoE: {'; '.join(found)}")


def _has_window(config: Any) -> bool:
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return "sliding_attention" in layer_types
    return getattr(config, "sliding_window", None) is not None

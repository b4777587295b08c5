"""A random mixture of experts of the size that a bench wants, as a checkpoint on disk.

    python -m tests.bench.big_moe build/big-moe
    python -m tests.bench.big_moe build/small-moe --hidden 512 --layers 8

Experts of a model that is made for tests are so small that to send tokens to them costs
more than to compute them. Here they are as large as wanted: with the usual sizes 16 in
each of 12 layers, 8.6 MB each, of 0.97 billion parameters in all (1.9 GB).

The architecture is Qwen2-MoE. There is no tokenizer: vLLM serves it with
`skip_tokenizer_init`, and with no token that ends a sequence, every answer is as long as
it is asked for. Weights are such that the gate's choice follows the token and the output
wanders: gates, attention and head keep the size of their input, what a layer adds
to the residual stream is small beside the embedding, and the head is not tied to it.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from rich.progress import track

from coterie.cli.console import err
from deployments.models.appearing import appearing
from infra.errors import ConfigError
from tests.bench.random_tensors import RandomTensors, Shape, write_bfloat16

HEAD_SIZE = 64
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class MoeSizes:
    """Sizes of the model.

    `expert_size` and `shared_size` are neurons of one routed expert and of the shared one.
    Raises `ConfigError` if `hidden` does not divide into heads.
    """

    hidden: int = 1024
    layers: int = 12
    experts: int = 16
    active: int = 4
    expert_size: int = 1408
    shared_size: int = 1408
    vocabulary: int = 32_000

    def __post_init__(self) -> None:
        if self.hidden % (2 * HEAD_SIZE):
            raise ConfigError(
                f"a hidden size of {self.hidden} is no multiple of {2 * HEAD_SIZE}"
            )

    @property
    def num_heads(self) -> int:
        """Heads of queries; there are half as many of keys."""
        return self.hidden // HEAD_SIZE

    @property
    def num_parameters(self) -> int:
        """Of all tensors."""
        return self.layers * _count(layer_shapes(self)) + _count(other_shapes(self))


def layer_shapes(sizes: MoeSizes) -> dict[str, Shape]:
    """Tensors of one layer, by what follows `model.layers.N.` in their names."""
    hidden, keys = sizes.hidden, sizes.hidden // 2
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate.weight": (sizes.experts, hidden),
        "mlp.shared_expert_gate.weight": (1, hidden),
    }
    for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
        shapes[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        shapes[f"self_attn.{name}_proj.bias"] = (rows,)
    places = {f"experts.{expert}": sizes.expert_size for expert in range(sizes.experts)}
    for place, size in ({"shared_expert": sizes.shared_size} | places).items():
        shapes[f"mlp.{place}.gate_proj.weight"] = (size, hidden)
        shapes[f"mlp.{place}.up_proj.weight"] = (size, hidden)
        shapes[f"mlp.{place}.down_proj.weight"] = (hidden, size)
    return shapes


def other_shapes(sizes: MoeSizes) -> dict[str, Shape]:
    """Tensors that are of no layer."""
    matrix = (sizes.vocabulary, sizes.hidden)
    return {
        "model.embed_tokens.weight": matrix,
        "model.norm.weight": (sizes.hidden,),
        "lm_head.weight": matrix,
    }


def config_of(sizes: MoeSizes) -> dict[str, Any]:
    """Contents of `config.json`."""
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "dtype": "bfloat16",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.expert_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_heads // 2,
        "num_experts": sizes.experts,
        "num_experts_per_tok": sizes.active,
        "moe_intermediate_size": sizes.expert_size,
        "shared_expert_intermediate_size": sizes.shared_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }


def write_big_moe(folder: Path, sizes: MoeSizes, seed: int) -> None:
    """Make `folder` such a checkpoint, whole or not at all: a file for each layer.

    The same arguments give the same bytes, on any machine. Holds one layer, or the
    embeddings, in memory. Raises `ConfigError` if there is something at `folder`.
    """
    with appearing(folder) as partial:
        (partial / "config.json").write_text(json.dumps(config_of(sizes), indent=2) + "\n")
        weight_map: dict[str, str] = {}
        for part in track(range(sizes.layers + 1), "writing layers", console=err()):
            file_name = f"model-{part + 1:05}-of-{sizes.layers + 1:05}.safetensors"
            shapes = _part_shapes(sizes, part)
            write_bfloat16(partial / file_name, _draw(shapes, sizes, (seed, part)))
            weight_map |= dict.fromkeys(shapes, file_name)
        metadata = {"total_size": 2 * sizes.num_parameters}
        index = {"metadata": metadata, "weight_map": weight_map}
        (partial / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _part_shapes(sizes: MoeSizes, part: int) -> dict[str, Shape]:
    """Tensors of layer `part`; of none, where there is no such layer."""
    if part == sizes.layers:
        return other_shapes(sizes)
    return {f"model.layers.{part}.{name}": s for name, s in layer_shapes(sizes).items()}


def _draw(shapes: Mapping[str, Shape], sizes: MoeSizes, seed: tuple[int, int]) -> Any:
    """A tensor of bfloat16 numbers for each name."""
    tensors = RandomTensors(seed)
    return {
        name: tensors.draw(shape, *_mean_and_spread(name, shape, sizes))
        for name, shape in shapes.items()
    }


def _mean_and_spread(name: str, shape: Shape, sizes: MoeSizes) -> tuple[float, float]:
    if len(shape) == 1:
        return (0.0 if name.endswith("bias") else 1.0), 0.0
    if "embed_tokens" in name:
        return 0.0, 1.0
    spread = shape[1] ** -0.5
    # Two of each layer add to the residual stream.
    is_adding = "o_proj" in name or "down_proj" in name
    return 0.0, spread * (2 * sizes.layers) ** -0.5 if is_adding else spread


def _count(shapes: Mapping[str, Shape]) -> int:
    return sum(map(prod, shapes.values()))


def main() -> None:
    """Write the checkpoint, and say how large it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for field in dataclasses.fields(MoeSizes):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=field.default, help="%(default)s")
    given = vars(parser.parse_args())
    folder, seed = given.pop("folder"), given.pop("seed")
    sizes = MoeSizes(**given)
    write_big_moe(folder, sizes, seed)
    print(f"{folder}: {sizes.num_parameters / 1e9:.2f} billion parameters")


if __name__ == "__main__":
    main()

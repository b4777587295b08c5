"""Checkpoints of random numbers, written byte by byte; no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN = 4
INNER = 3
NUM_EXPERTS = 2

_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
Tensors = Mapping[str, NDArray[Any]]


def config(architecture: str = "Qwen3MoeForCausalLM", **changed: Any) -> dict[str, Any]:
    """A `config.json` of two layers, of an architecture whose keys are Qwen's."""
    return {
        "architectures": [architecture],
        "num_hidden_layers": 2,
        "num_experts": NUM_EXPERTS,
        "num_experts_per_tok": 1,
        "hidden_size": HIDDEN,
        "intermediate_size": 99,
        "moe_intermediate_size": INNER,
        "hidden_act": "silu",
    } | changed


def one_by_one(
    layers: tuple[int, ...] = (0, 1), dtype: type[np.generic] = np.float32
) -> Tensors:
    """Each expert by itself; no two numbers are equal."""
    tensors: dict[str, NDArray[Any]] = {}
    for layer in layers:
        for expert in range(NUM_EXPERTS):
            start = f"model.layers.{layer}.mlp.experts.{expert}"
            shapes = {
                "gate": (INNER, HIDDEN),
                "up": (INNER, HIDDEN),
                "down": (HIDDEN, INNER),
            }
            for name, shape in shapes.items():
                first = 12 * len(tensors)
                numbers = np.arange(first, first + 12, dtype=np.int64)
                tensors[f"{start}.{name}_proj.weight"] = numbers.astype(dtype).reshape(shape)
    return tensors


def fused(separate: Tensors, layers: tuple[int, ...] = (0, 1)) -> Tensors:
    """The same in the fused layout."""
    tensors: dict[str, NDArray[Any]] = {}
    for layer in layers:
        start = f"model.layers.{layer}.mlp.experts"
        experts = [f"{start}.{expert}" for expert in range(NUM_EXPERTS)]
        tensors[f"{start}.gate_up_proj"] = np.stack(
            [
                np.concatenate(
                    [separate[f"{e}.gate_proj.weight"], separate[f"{e}.up_proj.weight"]]
                )
                for e in experts
            ]
        )
        tensors[f"{start}.down_proj"] = np.stack(
            [separate[f"{e}.down_proj.weight"] for e in experts]
        )
    return tensors


def write_file(path: Path, tensors: Tensors) -> None:
    """One safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, numbers in tensors.items():
        header[name] = {
            "dtype": _NAMES[numbers.dtype.name],
            "shape": list(numbers.shape),
            "data_offsets": [end, end + numbers.nbytes],
        }
        end += numbers.nbytes
    text = json.dumps(header).encode()
    body = b"".join(numbers.tobytes() for numbers in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def write_model(folder: Path, config: Mapping[str, Any], *files: Tensors) -> Path:
    """A model's folder; with several files there is an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if len(files) == 1:
        write_file(folder / "model.safetensors", files[0])
        return folder
    names = [f"model-{i}.safetensors" for i in range(len(files))]
    for name, tensors in zip(names, files, strict=True):
        write_file(folder / name, tensors)
    weight_map = {
        tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors
    }
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder

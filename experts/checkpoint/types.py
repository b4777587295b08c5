"""The nouns of a checkpoint's routed experts.

Worked example: DeepSeek-V3 has 61 transformer layers, of which the first 3 are dense.
Its 58 mixture-of-experts layers are the transformer layers 3 to 60; layer 0 of the
expert tier is transformer layer 3.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experts.types import ModelShape

Dtype = Literal["float32", "float16", "bfloat16"]
Activation = Literal["silu"]

NUMPY_DTYPES: dict[Dtype, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    # numpy has none: the bits.
    "bfloat16": np.uint16,
}


@dataclass(frozen=True)
class MoeConfig:
    """What a model's `config.json` says of its routed experts."""

    name: str
    """Names the model in messages."""
    shape: ModelShape
    transformer_layers: tuple[int, ...]
    """Those that have routed experts, ascending. Shape: [num_layers]."""
    block: str
    """What a transformer layer calls its mixture of experts."""
    gate: str
    up: str
    down: str
    """What an expert calls its projections."""
    activation: Activation


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor's bytes are in a file: `first_byte <= byte < end_byte`."""

    path: Path
    dtype: str
    """As safetensors writes it: `BF16`, `F32`, `F8_E4M3`."""
    shape: tuple[int, ...]
    first_byte: int
    end_byte: int


@dataclass(frozen=True, eq=False)
class ExpertStrips:
    """The weights of one expert: views of the files, which are read when they are used.

    An expert computes `down @ (silu(gate @ x) * (up @ x))`. Numbers of bfloat16 come as
    their bits, `uint16`.
    """

    gate: NDArray[Any]  # [intermediate_size, hidden_size]
    up: NDArray[Any]  # [intermediate_size, hidden_size]
    down: NDArray[Any]  # [hidden_size, intermediate_size]
    dtype: Dtype

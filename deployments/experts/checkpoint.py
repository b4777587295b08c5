"""An expert of a checkpoint as torch's tensors, without a copy."""

from typing import Any

import torch
from numpy.typing import NDArray

from experts.checkpoint.types import Dtype, ExpertStrips

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def tensors_of(strips: ExpertStrips) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gate, up and down projection; views of the files that must not be written to.

    Shapes: [intermediate_size, hidden_size], the same, [hidden_size, intermediate_size].
    """
    dtype = DTYPES[strips.dtype]
    return _view(strips.gate, dtype), _view(strips.up, dtype), _view(strips.down, dtype)


def expert_weights(strips: ExpertStrips) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights as vLLM writes them, copied: `w13`, the gate's rows before the up
    projection's, and `w2`.

    Shapes: [2 * intermediate_size, hidden_size], [hidden_size, intermediate_size].
    """
    gate, up, down = tensors_of(strips)
    return torch.cat([gate, up]), down.clone()


def _view(array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).view(dtype)

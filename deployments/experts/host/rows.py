"""Rows of a frame as torch's tensors, in place.

A request's frame cannot be written to. torch warns of such memory, once in a process: it
would let us write there. Nobody does.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experts.checkpoint.types import Dtype
from experts.transport.messages import RowType

DTYPE_TO_ROW_TYPE: dict[Dtype, RowType] = {
    "float32": RowType.FLOAT32,
    "float16": RowType.FLOAT16,
    "bfloat16": RowType.BFLOAT16,
}
_TORCH_DTYPES = {
    RowType.FLOAT32: torch.float32,
    RowType.FLOAT16: torch.float16,
    RowType.BFLOAT16: torch.bfloat16,
}


def read_rows(rows: NDArray[Any], row_type: RowType) -> torch.Tensor:
    """A view, which must not be written to. Shape: [num_rows, hidden_size]."""
    return torch.from_numpy(rows).view(_TORCH_DTYPES[row_type])


def write_rows(results: torch.Tensor, rows: NDArray[Any], row_type: RowType) -> None:
    """Round to the type of the rows. Shapes: [num_pairs, hidden_size]."""
    torch.from_numpy(rows).view(_TORCH_DTYPES[row_type]).copy_(results)


def _warn_in_vain() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(np.frombuffer(b"\0", np.uint8))


_warn_in_vain()

"""Rows of a frame and torch's tensors of them, in place; numpy has bfloat16 as its bits.

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
_BFLOAT16_BITS = RowType.BFLOAT16.dtype


def as_tensor(rows: NDArray[Any]) -> torch.Tensor:
    """The same memory."""
    found = torch.from_numpy(rows)
    return found.view(torch.bfloat16) if rows.dtype == _BFLOAT16_BITS else found


def as_numpy(rows: torch.Tensor) -> NDArray[Any]:
    """The same memory."""
    bits = rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows
    found: NDArray[Any] = bits.numpy()
    return found


def write_rows(results: NDArray[np.float32], rows: NDArray[Any]) -> None:
    """Round to the type of the rows. Shapes: [num_pairs, hidden_size]."""
    if rows.dtype == np.float32:
        rows[:] = results
    else:
        as_tensor(rows).copy_(torch.from_numpy(results))


def _warn_in_vain() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(np.frombuffer(b"\0", np.uint8))


_warn_in_vain()

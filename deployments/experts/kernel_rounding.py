"""From float32 sums to the model's dtype, as vLLM's CPU kernel does it on this processor.

Where the processor has AVX-512 and no instruction for bfloat16, vLLM cuts the lower half of a
number off (`csrc/cpu/cpu_types_x86.hpp`); elsewhere the nearest bfloat16 is taken, of two that
are as near the even one.
"""

from typing import Literal

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray

from deployments.experts.rows import as_numpy
from infra.compiled import compiled

Rounding = Literal["nearest", "cut"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "cut")
"""To bfloat16."""


def write_rounded(sums: NDArray[np.float32], out: torch.Tensor, rounding: Rounding) -> None:
    """Put the sums into `out`, of any dtype. Shapes: [num_tokens, hidden_size], of both."""
    if out.is_cpu and out.dtype == torch.bfloat16 and out.is_contiguous():
        _round(sums.view(np.uint32), rounding == "cut", as_numpy(out))
        return
    assert out.dtype != torch.bfloat16 or rounding == "nearest"
    out.copy_(torch.from_numpy(sums))


@compiled(
    types.void(
        types.Array(types.uint32, 2, "C", readonly=True),
        types.boolean,
        types.uint16[:, ::1],
    )
)
def _round(sums: NDArray[np.uint32], is_cut: bool, out: NDArray[np.uint16]) -> None:
    """To bfloat16, all in bits."""
    half, one = np.uint32(0x7FFF), np.uint32(1)
    for row in range(sums.shape[0]):
        for i in range(sums.shape[1]):
            bits = sums[row, i]
            if not is_cut:
                # What is no number stays none, whatever is added to its last bits.
                is_number = (bits & np.uint32(0x7FFFFFFF)) <= np.uint32(0x7F800000)
                if is_number:
                    bits += half + (bits >> np.uint32(16) & one)
                else:
                    bits |= np.uint32(0x400000)
            out[row, i] = np.uint16(bits >> np.uint32(16))

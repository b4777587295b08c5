"""From float32 sums to the model's dtype, as vLLM's CPU kernel does it on this processor.

Where the processor has AVX-512 and no instruction for bfloat16, vLLM cuts the lower half of a
number off (`csrc/cpu/cpu_types_x86.hpp`); elsewhere the nearest bfloat16 is taken.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Rounding = Literal["nearest", "cut"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "cut")
"""To bfloat16."""


def write_rounded(sums: NDArray[np.float32], out: torch.Tensor, rounding: Rounding) -> None:
    """Put the sums into `out`, of any dtype. Shapes: [num_tokens, hidden_size], of both."""
    if rounding == "cut" and out.dtype == torch.bfloat16:
        # x86 has the upper half of a number in the second two bytes.
        halves = torch.from_numpy(sums.view(np.uint16)[:, 1::2])
        out.copy_(halves.view(torch.bfloat16))
        return
    out.copy_(torch.from_numpy(sums))

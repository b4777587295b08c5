"""Sums become the model's dtype as vLLM's kernel makes them."""

import numpy as np
import pytest
import torch

from deployments.experts.kernel_rounding import Rounding, write_rounded

pytestmark = pytest.mark.model

# 1 and 3/4, 1/2 and 1/4 of the way to the next number of bfloat16; and the same below 0.
_QUARTER = 1 / 512
SUMS = np.array(
    [[1 + 3 * _QUARTER, 1 + 2 * _QUARTER, 1 + _QUARTER], [-1 - 3 * _QUARTER, -2.0, 0.0]],
    np.float32,
)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("nearest", [[1.0078125, 1.0, 1.0], [-1.0078125, -2.0, 0.0]]),
        ("cut", [[1.0, 1.0, 1.0], [-1.0, -2.0, 0.0]]),
    ],
)
def test_bfloat16_is_rounded_or_cut(rounding: Rounding, expected: list[list[float]]) -> None:
    out = torch.empty(2, 3, dtype=torch.bfloat16)
    write_rounded(SUMS, out, rounding)
    assert out.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes_are_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    out = torch.empty(2, 3, dtype=dtype)
    write_rounded(SUMS, out, "cut")
    assert torch.equal(out, torch.from_numpy(SUMS).to(dtype))

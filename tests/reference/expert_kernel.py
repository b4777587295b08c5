"""An expert written out, number by number: the slow twin of the expert kernels, in
float64, and of `combined`."""

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def expert_result(gate: Numbers, up: Numbers, down: Numbers, x: Numbers) -> Numbers:
    """What an expert makes of one row. Shapes: as `ExpertStrips`; [hidden_size]."""
    inner, hidden = gate.shape
    between = []
    for i in range(inner):
        a = sum(gate[i, j] * x[j] for j in range(hidden))
        b = sum(up[i, j] * x[j] for j in range(hidden))
        between.append(a / (1 + math.exp(-a)) * b)
    return np.array([sum(down[j, i] * between[i] for i in range(inner)) for j in range(hidden)])


def fused_sum(weights: list[float], results: list[float]) -> np.float32:
    """One number of a token: a rounded product, then fused multiplications and additions.

    A product of two float32 is exact in float64; the sum with a third is rounded to odd,
    so that the rounding to float32 which follows is right.
    """
    total = np.float32(np.float32(weights[0]) * np.float32(results[0]))
    for weight, result in zip(weights[1:], results[1:], strict=True):
        product = float(np.float32(weight)) * float(np.float32(result))
        total = np.float32(_sum_to_odd(product, float(total)))
    return total


def _sum_to_odd(a: float, b: float) -> float:
    total = a + b
    high = total - a
    lost = (a - (total - high)) + (b - high)
    if lost == 0 or not math.isfinite(total) or math.frexp(total)[0] == 0:
        return total
    bits = int(np.float64(total).view(np.int64))
    if bits & 1:
        return total
    return math.nextafter(total, math.copysign(math.inf, lost))

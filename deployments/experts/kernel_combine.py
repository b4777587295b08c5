"""Adding up the pairs of a token, in the arithmetic of vLLM's own layer.

The k results of a token are weighted and added in the order of k, in float32: the first
product is rounded, each further one is fused with its addition. That is what the
compiler has made of vLLM's `csrc/cpu/cpu_fused_moe.cpp`; a multiplication and an
addition that are rounded apart differ from it in a twentieth to half of all numbers.

    sum = w[0] * r[0]
    sum = fma(w[k], r[k], sum)      k = 1, 2, ...
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from infra.compiled import compiled

_ROWS = types.Array(types.float32, 2, "C", readonly=True)
_PAIRS = types.Array(types.int32, 2, "C", readonly=True)


def combined(
    results: NDArray[np.float32], gate_weights: NDArray[np.float32], pairs: NDArray[np.int32]
) -> NDArray[np.float32]:
    """The sums, not yet rounded to the model's dtype; `pairs` names each token's results.

    Shapes: [num_pairs, hidden_size], [num_tokens, top_k] of both, and
    [num_tokens, hidden_size] of the sums.
    """
    sums = np.empty((len(pairs), results.shape[1]), np.float32)
    _combine(results, gate_weights, pairs, sums)
    return sums


@intrinsic  # type: ignore[untyped-decorator]
def _fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, values: tuple[Any, ...]) -> Any:
        return builder.fma(*values)

    return types.float32(types.float32, types.float32, types.float32), generate


@compiled(types.void(_ROWS, _ROWS, _PAIRS, types.float32[:, ::1]))
def _combine(
    results: NDArray[np.float32],
    gate_weights: NDArray[np.float32],
    pairs: NDArray[np.int32],
    sums: NDArray[np.float32],
) -> None:
    num_tokens, top_k = pairs.shape
    for token in range(num_tokens):
        weight = gate_weights[token, 0]
        row = results[pairs[token, 0]]
        for i in range(sums.shape[1]):
            sums[token, i] = weight * row[i]
        for k in range(1, top_k):
            weight = gate_weights[token, k]
            row = results[pairs[token, k]]
            for i in range(sums.shape[1]):
                sums[token, i] = _fused(row[i], weight, sums[token, i])

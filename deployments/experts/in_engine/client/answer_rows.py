"""The rows of an answer, put where the layer wants them."""

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled

_INTS = types.Array(types.int32, 1, "C", readonly=True)


@compiled(
    types.int64(
        types.Array(types.float32, 2, "C", readonly=True),
        *(_INTS, _INTS),
        types.float32[:, ::1],
    )
)
def put_rows(
    rows: NDArray[np.float32],
    pairs: NDArray[np.int32],
    pair_slots: NDArray[np.int32],
    results: NDArray[np.float32],
) -> int:
    """`results[pairs] = rows`; how many different slots there are, which ascend.

    Shapes: [num_pairs, hidden_size], [num_pairs] twice, [all pairs, hidden_size].
    """
    num_slots = 0
    for i in range(len(pairs)):
        if i == 0 or pair_slots[i] != pair_slots[i - 1]:
            num_slots += 1
        pair = pairs[i]
        for j in range(rows.shape[1]):
            results[pair, j] = rows[i, j]
    return num_slots

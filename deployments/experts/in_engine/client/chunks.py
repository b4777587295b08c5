"""Parcels cut into what fits into one frame, either way."""

from collections.abc import Sequence

import numpy as np

from experts.transport.message_words import HEADER_BYTES
from router.dispatch.types import Parcel

_FLOAT32_BYTES = 4
_PAIR_BYTES = 8
"""A pair's slot and row."""


def max_pairs(max_frame_bytes: int, hidden_size: int) -> int:
    """How many pairs a frame has room for: as many rows are asked and answered at most.

    Worked example: frames of 4 MiB and rows of 2048 numbers: 510 pairs.
    """
    pair_bytes = _FLOAT32_BYTES * hidden_size + _PAIR_BYTES
    found = (max_frame_bytes - 2 * HEADER_BYTES) // pair_bytes
    assert found > 0, "a frame has no room for one row"
    return found


def chunks(parcel: Parcel, most: int) -> Sequence[Parcel]:
    """The parcel in parts of at most so many pairs, in the order of its slots.

    An expert's weights are read for one part, or two where it is cut there; a token that has
    experts in several parts is sent with each of them.
    """
    num_pairs = len(parcel.pairs)
    if num_pairs <= most:
        return (parcel,)
    return [_part(parcel, slice(start, start + most)) for start in range(0, num_pairs, most)]


def _part(parcel: Parcel, part: slice) -> Parcel:
    rows, pair_rows = np.unique(parcel.pair_rows[part], return_inverse=True)
    return Parcel(
        rows=parcel.rows[rows],
        pair_rows=pair_rows.astype(np.int32),
        pair_slots=parcel.pair_slots[part],
        pairs=parcel.pairs[part],
    )

"""Bitmaps as the server keeps them, and as arrays."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Masks = NDArray[np.uint64]
"""Shape: [num_blocks, num_words]; bit b is bit b % 64 of word b // 64."""

_WORD_BYTES = 8


def as_masks(values: Sequence[bytes]) -> Masks:
    """The bitmaps, all as wide as the widest of them (at least one word)."""
    width = max((len(value) for value in values), default=0)
    width = max(-(-width // _WORD_BYTES), 1) * _WORD_BYTES
    joined = b"".join([value.ljust(width, b"\0") for value in values])
    masks: Masks = np.frombuffer(joined, "<u8").astype(np.uint64)
    return masks.reshape(len(values), width // _WORD_BYTES)


def mask_of_bits(bits: Iterable[int]) -> bytes:
    """A bitmap that has these bits."""
    found = sorted(bits)
    mask = bytearray((found[-1] // 8 + 1) if found else 0)
    for bit in found:
        mask[bit // 8] |= 1 << bit % 8
    return bytes(mask)

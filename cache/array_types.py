"""The arrays that compiled functions of the index take, as numba names them."""

from numba import types

HASHES = types.Array(types.uint64, 1, "C", readonly=True)
"""Read only, so that an array over a received message passes too."""

TOKENS = types.Array(types.uint32, 1, "C", readonly=True)
BITMAPS = types.Array(types.uint64, 2, "C", readonly=True)

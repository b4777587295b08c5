"""Random tensors in bfloat16, without torch and at the speed of a disk.

A weight is one of 256 quantiles of a normal distribution, chosen by a byte: quicker by
far than a normal variate for each, and as good for a model that is never trained.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from safetensors import TensorSpec, serialize_file

Shape = tuple[int, ...]
Bfloat16 = npt.NDArray[np.uint16]
"""The numbers' bits, as numpy has no such type."""

_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)


class RandomTensors:
    """Tensors drawn one after the other: the same seed, the same sequence."""

    def __init__(self, seed: tuple[int, ...]) -> None:
        # A bit generator's raw stream is the same in all versions of numpy.
        self._bits = np.random.PCG64(seed)

    def draw(self, shape: Shape, mean: float, spread: float) -> Bfloat16:
        """Normally distributed numbers, as far as 256 of them can be."""
        values = to_bfloat16(mean + np.float32(spread) * _QUANTILES)
        size = int(np.prod(shape))
        chosen = self._bits.random_raw(-(-size // 8)).view(np.uint8)[:size]
        return values[chosen].reshape(shape)


def to_bfloat16(values: npt.NDArray[np.float32]) -> Bfloat16:
    """The nearest bfloat16, ties to even; finite values."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_bfloat16(path: Path, tensors: Mapping[str, Bfloat16]) -> None:
    """Write a safetensors file."""
    specs = {
        name: TensorSpec(
            dtype="bfloat16",
            shape=tensor.shape,
            data_ptr=tensor.ctypes.data,
            data_len=tensor.nbytes,
        )
        for name, tensor in tensors.items()
    }
    serialize_file(specs, path, {"format": "pt"})

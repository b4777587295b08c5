"""Weights of slots in 8 bits: half the memory of bfloat16, and not the model's results.

Each row of a weight, that is each output, is divided by its scale, the greatest absolute
value of the row / 127, and rounded to whole numbers of -127 to 127.

Both sizes are rounded up to multiples of 32 with zeros: torch's product reads beyond the
end of others.

Worked example: the row [0.5, -1.27, 0.004] has the scale 0.01 and becomes [50, -127, 0].
An expert of 576 x 64 takes 3 * 576 * 64 bytes and 704 scales of 2 bytes: 112,000.
"""

from dataclasses import dataclass

import torch

from deployments.experts.checkpoint import tensors_of
from deployments.experts.weights import rounded_size
from experts.checkpoint.types import ExpertStrips
from experts.types import ModelShape

_MOST = 127


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """Weights of several rows; `numbers * scales` is about the weight."""

    numbers: torch.Tensor  # [..., num_outputs, num_inputs], int8
    scales: torch.Tensor  # [..., num_outputs], bfloat16

    @classmethod
    def zeros(cls, *sizes: int) -> "Int8Weight":
        """Shape: the sizes."""
        scales = torch.zeros(*sizes[:-1], dtype=torch.bfloat16)
        return cls(torch.zeros(*sizes, dtype=torch.int8), scales)

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int8Weight":
        """The nearest to a weight. Shape: [num_outputs, num_inputs]."""
        exact = weight.float()
        # A scale that is rounded down leaves the greatest number beyond 127.
        scales = (exact.abs().amax(1) / _MOST).bfloat16()
        divisors = scales.float().clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        numbers = (exact / divisors).round().clamp(-_MOST, _MOST)
        return cls(numbers.to(torch.int8), scales)

    def write(self, weight: torch.Tensor, first_row: int) -> None:
        """Put the nearest to a weight there. Shape: [num_outputs, num_inputs]."""
        found = Int8Weight.of(weight)
        num_outputs, num_inputs = weight.shape
        rows = slice(first_row, first_row + num_outputs)
        self.numbers[rows, :num_inputs] = found.numbers
        self.scales[rows] = found.scales

    def __getitem__(self, place: tuple[int, int]) -> "Int8Weight":
        return Int8Weight(self.numbers[place], self.scales[place])

    @property
    def num_bytes(self) -> int:
        """Of numbers and scales."""
        return int(self.numbers.nbytes + self.scales.nbytes)


class Int8Weights:
    """A `Storage` of 8-bit weights."""

    def __init__(self, shape: ModelShape, num_slots: int) -> None:
        self.hidden_size = rounded_size(shape.hidden_size)
        hidden, inner = self.hidden_size, rounded_size(shape.intermediate_size)
        self.w13 = Int8Weight.zeros(shape.num_layers, num_slots, 2 * inner, hidden)
        self.w2 = Int8Weight.zeros(shape.num_layers, num_slots, hidden, inner)

    @property
    def bytes_per_slot(self) -> int:
        """Of one layer."""
        return self.w13[0, 0].num_bytes + self.w2[0, 0].num_bytes

    def write(self, layer: int, slot: int, strips: ExpertStrips) -> None:
        """See `Storage`."""
        gate, up, down = tensors_of(strips)
        w13, w2 = self.w13[layer, slot], self.w2[layer, slot]
        inner = w2.numbers.shape[1]
        w13.write(gate, 0)
        w13.write(up, inner)
        w2.write(down, 0)

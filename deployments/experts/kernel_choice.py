"""Slots and the kernel that computes with them, for a model and a machine.

| weights | device and build              | kernel          | results                |
|---------|-------------------------------|-----------------|------------------------|
| full    | CPU, vLLM's CPU build         | `FusedKernel`   | the engine's, to a bit |
| full    | any other, bfloat16           | `GroupedKernel` | the engine's, nearly   |
| full    | any other, other types, sizes | `TorchKernel`   | the engine's, nearly   |
| int8    | any CPU                       | `Int8Kernel`    | about 1 % off          |
"""

from dataclasses import dataclass

from deployments.experts.checkpoint import DTYPES
from deployments.experts.kernel import ExpertKernel
from deployments.experts.kernel_fused import FusedKernel
from deployments.experts.kernel_grouped import GroupedKernel, takes
from deployments.experts.kernel_int8 import Int8Kernel
from deployments.experts.kernel_native import is_available
from deployments.experts.kernel_torch import PlainWeights, TorchKernel
from deployments.experts.weights import ExpertSlots
from deployments.experts.weights_int8 import Int8Weights
from deployments.experts.weights_packed import PackedWeights
from experts.checkpoint.types import Dtype
from experts.settings import HostDevice, Precision
from experts.types import ModelShape


@dataclass(frozen=True, eq=False)
class HostExperts:
    """What an expert host computes with. All slots are empty at first."""

    slots: ExpertSlots
    kernel: ExpertKernel
    bytes_per_slot: int
    """Of one layer."""


def build_experts(
    shape: ModelShape,
    num_slots: int,
    dtype: Dtype,
    precision: Precision = "full",
    device: HostDevice = "cpu",
) -> HostExperts:
    """Slots for `num_slots` experts of each layer; takes their memory at once.

    `dtype` is the engine's, in which rows come; the checkpoint's may be another.
    """
    if precision == "int8":
        assert device == "cpu"
        small = Int8Weights(shape, num_slots)
        slots = ExpertSlots(shape, num_slots, small)
        return HostExperts(slots, Int8Kernel(slots, small), small.bytes_per_slot)
    if device == "cpu" and is_available():
        packed = PackedWeights(shape, num_slots, DTYPES[dtype])
        slots = ExpertSlots(shape, num_slots, packed)
        return HostExperts(slots, FusedKernel(slots, packed), packed.bytes_per_slot)
    plain = PlainWeights(shape, num_slots, DTYPES[dtype], device)
    slots = ExpertSlots(shape, num_slots, plain)
    kernel = GroupedKernel if takes(shape, DTYPES[dtype]) else TorchKernel
    return HostExperts(slots, kernel(slots, plain), plain.bytes_per_slot)

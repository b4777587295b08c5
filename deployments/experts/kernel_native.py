"""vLLM's CPU kernel for fused experts, without vLLM's Python: loading takes no time.

The operator `_C::cpu_fused_moe` keeps its intermediate results in memory that there is
one of in a process: it runs once at a time, and whoever reads that memory (see
`kernel_scratch`) holds `running`.
"""

import ctypes
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch

from infra.errors import ConfigError

Isa = Literal["amx", "vec"]

running = Lock()
"""Held while the operator runs, and while its scratch memory is read."""


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """The weights of a layer's slots as `pack` has left them."""

    w13: torch.Tensor  # [num_slots, 2 * intermediate_size, hidden_size]
    w2: torch.Tensor  # [num_slots, hidden_size, intermediate_size]
    isa: Isa


def choose_isa(dtype: torch.dtype) -> Isa:
    """What vLLM chooses for its own layers (`cpu_moe.py`), else results differ."""
    has_tiles = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return "amx" if has_tiles else "vec"


@cache
def is_available() -> bool:
    """Whether this processor and the installed vLLM have the operator. Loads it."""
    return library() is not None and hasattr(torch.ops._C, "cpu_fused_moe")


def pack(weight: torch.Tensor, packed: torch.Tensor, isa: Isa) -> None:
    """Write the kernel's form of a weight. Shapes: [num_outputs, num_inputs], of both.

    Rows are packed by 16, so a weight may be packed in parts of as many rows. Raises
    ConfigError where there is no such kernel.
    """
    _operators().prepack_moe_weight(weight.unsqueeze(0), packed.unsqueeze(0), isa)


def run(
    experts: PackedExperts,
    inputs: torch.Tensor,
    gate_weights: torch.Tensor | None,
    ids: torch.Tensor,
) -> torch.Tensor:
    """The operator as vLLM's own layer calls it: weighted, added, and rounded once.

    Without weights each has one expert, and is not weighted. Sizes are `rounded_size`s.
    Hold `running`.

    Shapes: [num_tokens, hidden_size], [num_tokens, top_k] float32 and int32, and the
    inputs' shape for the result.
    """
    output = torch.empty_like(inputs)
    is_bare = gate_weights is None
    if gate_weights is None:
        gate_weights = torch.empty(ids.shape, dtype=torch.float32)
    run_into(output, experts, inputs, gate_weights, ids, is_bare)
    return output


def run_into(
    output: torch.Tensor,
    experts: PackedExperts,
    inputs: torch.Tensor,
    gate_weights: torch.Tensor,
    ids: torch.Tensor,
    is_bare: bool,
) -> None:
    """As `run`; where it `is_bare` nothing is weighted, and the weights may be any."""
    assert running.locked()
    w13, w2, isa = experts.w13, experts.w2, experts.isa
    _fused_moe()(output, inputs, w13, w2, None, None, gate_weights, ids, is_bare, "silu", isa)


@cache
def _fused_moe() -> Any:
    """The operator's one overload: to look for it at each call takes time."""
    return _operators().cpu_fused_moe.default


@cache
def _operators() -> Any:
    if not is_available():
        raise ConfigError("the installed vLLM has no fused experts for this processor")
    return torch.ops._C


@cache
def library() -> ctypes.CDLL | None:
    """The library that vLLM loads on this processor (`vllm/platforms/cpu.py`)."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return None
    name = "_C"
    if torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_bf16_supported():
        name = "_C_AVX512" if torch.cpu._is_avx512_supported() else "_C_AVX2"
    path = Path(found.submodule_search_locations[0]) / f"{name}.abi3.so"
    try:
        torch.ops.load_library(str(path))
        return ctypes.CDLL(str(path))
    except OSError:  # not there, or of another device
        return None

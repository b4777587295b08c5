"""Results of pairs in float32, which vLLM's CPU kernel computes and does not give out.

The operator computes `down @ act(...)` of each (token, k) in float32, then adds up the
k results of a token, weighted, and rounds once to the model's dtype. Called for pairs,
as top-k of 1, it would round each of them. But its float32 results still lie in its
scratch memory when it returns; `ScratchLayout` says where. The layout is that of vLLM
0.32 (`csrc/cpu/cpu_fused_moe.cpp`), and is tried out before it is relied on.

Worked example: 2 slots and 2 pairs of 32 numbers with 32 between, in bfloat16. Two
counts for slots and the order of rows take 64 bytes each; the places are at byte 192;
128 bytes of activations follow at 256, and 256 bytes of results at 384.
"""

import ctypes
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from deployments.experts.kernel_combine import combined
from deployments.experts.kernel_native import (
    PackedExperts,
    choose_isa,
    library,
    pack,
    run,
    running,
)
from deployments.experts.kernel_rounding import ROUNDINGS, Rounding, write_rounded

MAX_SCRATCH_BYTES = 2**28
"""About what pairs that are computed at once may take."""

_SYMBOL = "_ZN9cpu_utils17ScratchPadManager22get_scratchpad_managerEv"


@dataclass(frozen=True)
class ScratchLayout:
    """Where the operator leaves what, when called for pairs; bytes from the start."""

    places: int
    """Which of `results` is a pair's: [num_pairs], int32."""
    results: int
    """In the order of slots: [num_pairs, hidden_size], float32."""
    end: int


@lru_cache(maxsize=4096)
def scratch_layout(
    num_slots: int, num_pairs: int, hidden_size: int, intermediate_size: int, number_bytes: int
) -> ScratchLayout:
    """For activations of so many bytes a number."""
    counts = _rounded(4 * num_slots) + _rounded(4 * (num_slots + 1))
    places = counts + _rounded(4 * num_pairs)
    between = num_pairs * intermediate_size * number_bytes
    results = places + _rounded(4 * num_pairs) + _rounded(between)
    return ScratchLayout(places, results, results + 4 * num_pairs * hidden_size)


def compute_pairs(
    experts: PackedExperts, inputs: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    """The result of each pair: exact in float32 and where `has_readable_results`, else
    rounded to the inputs' dtype.

    Shapes: [num_pairs, hidden_size], [num_pairs] int32, and the inputs' for the results,
    which are float32.
    """
    is_read = inputs.dtype != torch.float32 and has_readable_results()
    at_once = _pairs_at_once(experts, inputs)
    if len(inputs) <= at_once:
        return _compute_at_once(experts, inputs, slots, is_read)
    parts = zip(inputs.split(at_once), slots.split(at_once), strict=True)
    return torch.cat([_compute_at_once(experts, *part, is_read) for part in parts])


def _compute_at_once(
    experts: PackedExperts, inputs: torch.Tensor, slots: torch.Tensor, is_read: bool
) -> torch.Tensor:
    with running:
        rounded = run(experts, inputs, None, slots.unsqueeze(1))
        return _read(experts, inputs) if is_read else rounded.float()


def has_readable_results() -> bool:
    """Whether what is read adds up to what the operator gives for whole tokens."""
    return bfloat16_rounding() is not None


@cache
def bfloat16_rounding() -> Rounding | None:
    """How the operator's sums become bfloat16; None where its results cannot be read."""
    if _pad_address() is None:
        return None
    found = [rounding for rounding in ROUNDINGS if _adds_up(rounding)]
    return found[0] if found else None


def _adds_up(rounding: Rounding) -> bool:
    random = torch.Generator().manual_seed(0)
    experts = _random_experts(random)
    for num_tokens in (1, 9):
        inputs = torch.randn(num_tokens, 64, generator=random).bfloat16()
        # While vLLM makes a model, other numbers than float32 are the default.
        weights = torch.rand(num_tokens, 2, generator=random, dtype=torch.float32)
        ids = torch.tensor([[2, 0], [1, 2], [0, 1]], dtype=torch.int32).repeat(3, 1)
        ids = ids[:num_tokens].contiguous()
        with running:
            expected = run(experts, inputs, weights, ids)
            pair_inputs = inputs.repeat_interleave(2, 0)
            run(experts, pair_inputs, None, ids.view(-1, 1))
            results = _read(experts, pair_inputs)
        pairs = torch.arange(2 * num_tokens, dtype=torch.int32).view(num_tokens, 2)
        found = torch.empty_like(expected)
        sums = combined(results.numpy(), weights.numpy(), pairs.numpy())
        write_rounded(sums, found, rounding)
        if not torch.equal(found, expected):
            return False
    return True


def _random_experts(random: torch.Generator) -> PackedExperts:
    """Three, of hidden size 64 and intermediate size 96."""
    isa = choose_isa(torch.bfloat16)
    w13 = torch.randn(3, 192, 64, generator=random).bfloat16()
    w2 = torch.randn(3, 64, 96, generator=random).bfloat16()
    experts = PackedExperts(torch.empty_like(w13), torch.empty_like(w2), isa)
    for slot in range(3):
        pack(w13[slot], experts.w13[slot], isa)
        pack(w2[slot], experts.w2[slot], isa)
    return experts


def _pairs_at_once(experts: PackedExperts, inputs: torch.Tensor) -> int:
    """The operator counts scratch memory in 32 bits, and never gives it back."""
    _, hidden_size, inner = experts.w2.shape
    pair_bytes = int(4 * hidden_size + inputs.itemsize * inner + 8)
    return max(1, MAX_SCRATCH_BYTES // pair_bytes)


def _read(experts: PackedExperts, inputs: torch.Tensor) -> torch.Tensor:
    """The results of the operator's last run, which was for pairs, in their order.

    A copy. Shape: [num_pairs, hidden_size], float32.
    """
    assert running.locked()
    address = _pad_address()
    assert address is not None
    pad = _ScratchPad.from_address(address)
    num_pairs = len(inputs)
    num_slots, hidden_size, inner = experts.w2.shape
    layout = scratch_layout(num_slots, num_pairs, hidden_size, inner, inputs.itemsize)
    assert pad.num_bytes >= layout.end
    memory: Any = (ctypes.c_char * layout.end).from_address(pad.start)
    # numpy's calls are the shorter ones, and for few pairs they are what counts.
    places = np.frombuffer(memory, np.int32, num_pairs, layout.places)
    found = np.frombuffer(memory, np.float32, num_pairs * hidden_size, layout.results)
    return torch.from_numpy(found.reshape(num_pairs, hidden_size).take(places, 0))


class _ScratchPad(ctypes.Structure):
    _fields_ = [("num_bytes", ctypes.c_size_t), ("start", ctypes.c_void_p)]


@cache
def _pad_address() -> int | None:
    """Of the operator's one `_ScratchPad`, whose memory may move at every run."""
    found = getattr(library(), _SYMBOL, None)
    if found is None:
        return None
    found.restype = ctypes.c_void_p
    return int(found())


def _rounded(num_bytes: int) -> int:
    return (num_bytes + 63) // 64 * 64

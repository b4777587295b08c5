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
from numba import types
from numpy.typing import NDArray

from deployments.experts.kernel_combine import combined
from deployments.experts.kernel_native import (
    PackedExperts,
    choose_isa,
    library,
    pack,
    run,
    run_into,
    running,
)
from deployments.experts.kernel_rounding import ROUNDINGS, Rounding, write_rounded
from deployments.experts.pair_room import PairRoom
from infra.compiled import compiled

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


def scratch_layout(
    num_slots: int, num_pairs: int, hidden_size: int, intermediate_size: int, number_bytes: int
) -> ScratchLayout:
    """For activations of so many bytes a number."""
    counts = _rounded(4 * num_slots) + _rounded(4 * (num_slots + 1))
    places = counts + _rounded(4 * num_pairs)
    between = num_pairs * intermediate_size * number_bytes
    results = places + _rounded(4 * num_pairs) + _rounded(between)
    return ScratchLayout(places, results, results + 4 * num_pairs * hidden_size)


class ScratchReader:
    """Reads the operator's results, of layers of the same sizes."""

    def __init__(self, experts: PackedExperts) -> None:
        """Any of the layers."""
        self._num_slots, self._padded_size, self._inner = map(int, experts.w2.shape)
        self._number_bytes = experts.w2.itemsize
        self._layouts: dict[int, ScratchLayout] = {}

    def read(self, num_pairs: int, results: NDArray[np.float32]) -> None:
        """Copy the results of the last run, which was for so many pairs, in their order.

        Shape: [num_pairs, hidden_size]; that may be without what was rounded up.
        """
        assert running.locked()
        layout = self._layouts.get(num_pairs)
        if layout is None:
            sizes = (self._padded_size, self._inner, self._number_bytes)
            layout = scratch_layout(self._num_slots, num_pairs, *sizes)
            self._layouts[num_pairs] = layout
        pad = _pad()
        assert pad is not None
        assert pad.num_bytes >= layout.end
        _gather(*_views(pad.start, layout, num_pairs, self._padded_size), results)


class PairComputer:
    """Computes pairs over layers of the same sizes."""

    def __init__(self, experts: PackedExperts, hidden_size: int) -> None:
        """Any of the layers. Results have the first `hidden_size` numbers of each row."""
        self._hidden_size = hidden_size
        _, padded_size, inner = map(int, experts.w2.shape)
        self._pair_bytes = int(4 * padded_size + experts.w2.itemsize * inner + 8)
        is_read = experts.w2.dtype != torch.float32 and has_readable_results()
        self._reader = ScratchReader(experts) if is_read else None

    def compute(self, experts: PackedExperts, room: PairRoom) -> NDArray[np.float32]:
        """The result of each pair of the room: exact in float32 and where
        `has_readable_results`, else rounded to the inputs' dtype. Changes the room's output.

        Shape: [num_pairs, hidden_size].
        """
        num_pairs, at_once = room.num_pairs, self._pairs_at_once()
        results = np.empty((num_pairs, self._hidden_size), np.float32)
        if num_pairs <= at_once:
            self._compute(experts, room, results)
            return results
        for start in range(0, num_pairs, at_once):
            end = min(start + at_once, num_pairs)
            self._compute(experts, room.part(start, end), results[start:end])
        return results

    def _compute(
        self, experts: PackedExperts, room: PairRoom, results: NDArray[np.float32]
    ) -> None:
        with running:
            run_into(room.output, experts, room.inputs, room.weights, room.slots, is_bare=True)
            if self._reader is not None:
                self._reader.read(room.num_pairs, results)
                return
        torch.from_numpy(results).copy_(room.output[:, : self._hidden_size])

    def _pairs_at_once(self) -> int:
        """The operator counts scratch memory in 32 bits, and never gives it back."""
        return max(1, MAX_SCRATCH_BYTES // self._pair_bytes)


def has_readable_results() -> bool:
    """Whether what is read adds up to what the operator gives for whole tokens."""
    return bfloat16_rounding() is not None


@cache
def bfloat16_rounding() -> Rounding | None:
    """How the operator's sums become bfloat16; None where its results cannot be read."""
    if _pad() is None:
        return None
    found = [rounding for rounding in ROUNDINGS if _adds_up(rounding)]
    return found[0] if found else None


def _adds_up(rounding: Rounding) -> bool:
    random = torch.Generator().manual_seed(0)
    experts = _random_experts(random)
    reader = ScratchReader(experts)
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
            results = np.empty(pair_inputs.shape, np.float32)
            reader.read(len(pair_inputs), results)
        pairs = torch.arange(2 * num_tokens, dtype=torch.int32).view(num_tokens, 2)
        found = torch.empty_like(expected)
        sums = combined(results, weights.numpy(), pairs.numpy())
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


@lru_cache(maxsize=4096)
def _views(
    start: int, layout: ScratchLayout, num_pairs: int, padded_size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Results and places in memory that begins there, for as long as it does."""
    memory: Any = (ctypes.c_char * layout.end).from_address(start)
    places = np.frombuffer(memory, np.int32, num_pairs, layout.places)
    found = np.frombuffer(memory, np.float32, num_pairs * padded_size, layout.results)
    return found.reshape(num_pairs, padded_size), places


@compiled(
    types.void(
        types.Array(types.float32, 2, "C", readonly=True),
        types.Array(types.int32, 1, "C", readonly=True),
        types.float32[:, ::1],
    )
)
def _gather(
    rows: NDArray[np.float32], places: NDArray[np.int32], into: NDArray[np.float32]
) -> None:
    for pair in range(len(places)):
        row = rows[places[pair]]
        for i in range(into.shape[1]):
            into[pair, i] = row[i]


class _ScratchPad(ctypes.Structure):
    _fields_ = [("num_bytes", ctypes.c_size_t), ("start", ctypes.c_void_p)]


@cache
def _pad() -> _ScratchPad | None:
    """The operator's only one, whose memory may move at every run."""
    found = getattr(library(), _SYMBOL, None)
    if found is None:
        return None
    found.restype = ctypes.c_void_p
    return _ScratchPad.from_address(int(found()))


def _rounded(num_bytes: int) -> int:
    return (num_bytes + 63) // 64 * 64

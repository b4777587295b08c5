"""What the computing half of an expert host takes, on one core.

    python -m tests.bench.expert_kernel [--model DIR] [--json FILE]

`--model` is a dense model with gated layers; slices of 64 of its neurons stand for real
experts when the error of 8-bit weights is measured.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.experts.kernel import PairRequest
from deployments.experts.kernel_choice import HostExperts, build_experts
from deployments.experts.kernel_combine import combined
from deployments.experts.kernel_native import run, running
from deployments.experts.rows import as_numpy
from experts.checkpoint.tensor_files import TensorFiles, find_tensors
from experts.checkpoint.types import ExpertStrips, TensorPlace
from experts.types import ModelShape
from tests.deployments.experts.on_vllm.random_experts import RandomExperts

NUM_ROUNDS = 5
MEASURED_S = 0.2
SHAPES = (ModelShape(1, 16, 12, 576, 64), ModelShape(1, 8, 2, 1024, 2048))
ROWS = (1, 4, 32)
NEURONS = 64


@dataclass(frozen=True)
class ComputeRow:
    """Microseconds of processor time of a call, by one thread; medians over rounds that
    took turns.

    `in_engine` is vLLM's own operator, all experts of the layer in one call, weighted
    and added; `pairs` ours for the same, `half_pairs` for the half of the experts that
    one of two hosts has; `combine` adds up all pairs in the engine.
    """

    hidden_size: int
    intermediate_size: int
    num_experts: int
    top_k: int
    num_rows: int
    in_engine_us: float
    pairs_us: float
    half_pairs_us: float
    int8_pairs_us: float
    combine_us: float
    result_bytes: int
    """Of all pairs, in float32."""
    rounded_numbers_differ: float
    """Of the numbers of a combined row, the part that would differ from the engine's if
    pairs were rounded to bfloat16 before they are combined."""
    partial_numbers_differ: float
    """The same if each of two hosts weighted and added its pairs, in float32, and the
    engine added the two."""


@dataclass(frozen=True)
class FillRow:
    """A slot filled from memory, in microseconds of processor time."""

    hidden_size: int
    intermediate_size: int
    bytes_per_slot: int
    int8_bytes_per_slot: int
    fill_us: float
    int8_fill_us: float


@dataclass(frozen=True)
class ErrorRow:
    """How far the results of 8-bit weights are off: norm of the difference over norm."""

    weights: str
    mean: float
    most: float


def main() -> None:
    """Measure, print, and write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "compute": [asdict(_compute(s, rows)) for s in SHAPES for rows in ROWS],
        "fill": [asdict(_fill(shape)) for shape in SHAPES],
        "int8": [asdict(row) for row in _errors(options.model)],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def _host(shape: ModelShape, experts: RandomExperts, is_small: bool = False) -> HostExperts:
    host = build_experts(shape, shape.num_experts, "bfloat16", "int8" if is_small else "full")
    for expert in range(shape.num_experts):
        host.slots.fill(0, expert, expert, experts)
    return host


def _pairs(rows: torch.Tensor, ids: torch.Tensor, below: int) -> PairRequest:
    """Those whose expert is below a number."""
    place = np.flatnonzero(ids.numpy().ravel() < below).astype(np.int32)
    slots = ids.numpy().ravel()[place]
    return PairRequest(as_numpy(rows), (place // ids.shape[1]).astype(np.int32), slots)


def _gated(shape: ModelShape, num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(num_rows)
    rows = torch.randn(num_rows, shape.hidden_size, generator=random).bfloat16()
    logits = torch.randn(num_rows, shape.num_experts, generator=random)
    weights, ids = logits.softmax(-1).topk(shape.top_k)
    return rows, weights.contiguous(), ids.int().contiguous()


def _compute(shape: ModelShape, num_rows: int) -> ComputeRow:
    experts = RandomExperts.of(shape, "bfloat16")
    rows, weights, ids = _gated(shape, num_rows)
    packed = experts.packed(0)
    host, small = _host(shape, experts), _host(shape, experts, is_small=True)
    whole = _pairs(rows, ids, shape.num_experts)
    half = _pairs(rows, ids, shape.num_experts // 2)
    results = torch.from_numpy(host.kernel.compute(0, [whole])[0])
    places = np.arange(ids.numel(), dtype=np.int32).reshape(ids.shape)

    def in_engine() -> torch.Tensor:
        with running:
            return run(packed, rows, weights, ids)

    def weighted(pairs: torch.Tensor, gate_weights: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(combined(pairs.numpy(), gate_weights.numpy(), places))

    def combine(pairs: torch.Tensor) -> torch.Tensor:
        return weighted(pairs, weights).bfloat16()

    expected = in_engine()
    assert torch.equal(combine(results), expected)
    times = _take_turns(
        [
            in_engine,
            lambda: host.kernel.compute(0, [whole]),
            lambda: host.kernel.compute(0, [half]),
            lambda: small.kernel.compute(0, [whole]),
            lambda: combine(results),
        ]
    )
    rounded = combine(results.bfloat16().float())
    is_first = ids < shape.num_experts // 2
    partial = weighted(results, weights * is_first) + weighted(results, weights * ~is_first)
    return ComputeRow(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        num_rows=num_rows,
        in_engine_us=times[0],
        pairs_us=times[1],
        half_pairs_us=times[2],
        int8_pairs_us=times[3],
        combine_us=times[4],
        result_bytes=results.nbytes,
        rounded_numbers_differ=_differ(rounded, expected),
        partial_numbers_differ=_differ(partial.bfloat16(), expected),
    )


def _differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    return round(float((found != expected).float().mean()), 6)


def _fill(shape: ModelShape) -> FillRow:
    experts = RandomExperts.of(shape, "bfloat16")
    host, small = _host(shape, experts), _host(shape, experts, is_small=True)
    fill, small_fill = _take_turns(
        [
            lambda: host.slots.fill(0, 0, 0, experts),
            lambda: small.slots.fill(0, 0, 0, experts),
        ]
    )
    return FillRow(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        bytes_per_slot=host.bytes_per_slot,
        int8_bytes_per_slot=small.bytes_per_slot,
        fill_us=fill,
        int8_fill_us=small_fill,
    )


def _errors(model: Path | None) -> list[ErrorRow]:
    found = []
    for shape in SHAPES:
        random = RandomExperts.of(shape, "bfloat16")
        name = f"random, {shape.hidden_size} x {shape.intermediate_size}"
        found.append(_error(name, shape, random))
    if model:
        found.append(_error(f"slices of {model.name}", *_slices(model)))
    return found


@dataclass(frozen=True, eq=False)
class _Slices:
    """An `ExpertReader`."""

    experts: list[ExpertStrips]

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        return self.experts[expert]


def _slices(model: Path) -> tuple[ModelShape, _Slices]:
    """Of every third layer, 4 slices of neurons."""
    places, files = find_tensors(model), TensorFiles()
    num_layers = len([name for name in places if name.endswith("mlp.gate_proj.weight")])
    experts = []
    for layer in range(0, num_layers, 3):
        gate, up, down = (
            _as_float32(files, places[f"model.layers.{layer}.mlp.{part}_proj.weight"])
            for part in ("gate", "up", "down")
        )
        for start in range(0, 4 * NEURONS, NEURONS):
            part = slice(start, start + NEURONS)
            down_part = np.ascontiguousarray(down[:, part])
            experts.append(ExpertStrips(gate[part], up[part], down_part, "float32"))
    return ModelShape(1, len(experts), 1, gate.shape[1], NEURONS), _Slices(experts)


def _as_float32(files: TensorFiles, place: TensorPlace) -> NDArray[np.float32]:
    if place.dtype == "F32":
        return files.view(place, np.float32)
    assert place.dtype == "BF16"
    bits = files.view(place, np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32)


def _error(name: str, shape: ModelShape, experts: RandomExperts | _Slices) -> ErrorRow:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(32, shape.hidden_size, generator=random)
    off = []
    exact = build_experts(shape, 1, "float32")
    small = build_experts(shape, 1, "float32", "int8")
    asked = PairRequest(rows.numpy(), np.arange(32, dtype=np.int32), np.zeros(32, np.int32))
    for expert in range(shape.num_experts):
        exact.slots.fill(0, 0, expert, experts)
        small.slots.fill(0, 0, expert, experts)
        (expected,) = exact.kernel.compute(0, [asked])
        (found,) = small.kernel.compute(0, [asked])
        errors = np.linalg.norm(found - expected, axis=1)
        off += (errors / np.linalg.norm(expected, axis=1)).tolist()
    return ErrorRow(name, round(statistics.mean(off), 4), round(max(off), 4))


def _take_turns(calls: list[Callable[[], object]]) -> list[float]:
    """Median microseconds of each, over rounds in which each had its turn."""
    rounds = [[_call_us(call) for call in calls] for _ in range(NUM_ROUNDS)]
    return [round(statistics.median(times), 1) for times in zip(*rounds, strict=True)]


def _call_us(call: Callable[[], object]) -> float:
    call()
    times = []
    end = time.perf_counter() + MEASURED_S
    while time.perf_counter() < end:
        started = time.thread_time_ns()
        call()
        times.append(time.thread_time_ns() - started)
    return statistics.median(times) / 1e3


if __name__ == "__main__":
    main()

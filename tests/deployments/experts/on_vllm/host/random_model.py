"""A small checkpoint of random numbers, and what its experts make of a row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.checkpoint.reader import CheckpointReader
from tests.experts.checkpoint.tiny_checkpoint import config, write_model
from tests.reference.expert_kernel import expert_result

NUM_LAYERS = 2
NUM_EXPERTS = 4
HIDDEN = 32
INNER = 16

_CONFIG = config(num_experts=NUM_EXPERTS, hidden_size=HIDDEN, moe_intermediate_size=INNER)


@dataclass(frozen=True, eq=False)
class RandomModel:
    """A model in a folder."""

    folder: Path
    reader: CheckpointReader
    rows: NDArray[np.float32]
    """Some to send. Shape: [3, HIDDEN]."""
    results: NDArray[np.float64]
    """Of each row, by each expert. Shape: [NUM_LAYERS, NUM_EXPERTS, 3, HIDDEN]."""

    @classmethod
    def write(cls, folder: Path) -> "RandomModel":
        random = np.random.default_rng(0)
        tensors: dict[str, NDArray[Any]] = {}
        for layer in range(NUM_LAYERS):
            for expert in range(NUM_EXPERTS):
                start = f"model.layers.{layer}.mlp.experts.{expert}"
                for name, shape in (
                    ("gate", (INNER, HIDDEN)),
                    ("up", (INNER, HIDDEN)),
                    ("down", (HIDDEN, INNER)),
                ):
                    numbers = random.normal(size=shape) / shape[1] ** 0.5
                    tensors[f"{start}.{name}_proj.weight"] = numbers.astype(np.float32)
        rows = random.normal(size=(3, HIDDEN)).astype(np.float32)
        reader = CheckpointReader.open(write_model(folder, _CONFIG, tensors))
        return cls(folder, reader, rows, _results(reader, rows))

    def expected(self, layer: int, pairs: list[tuple[int, int]]) -> NDArray[np.float64]:
        """For pairs of (row, expert). Shape: [num_pairs, HIDDEN]."""
        return np.array([self.results[layer, expert, row] for row, expert in pairs])


def _results(reader: CheckpointReader, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    found = np.empty((NUM_LAYERS, NUM_EXPERTS, len(rows), HIDDEN))
    for layer in range(NUM_LAYERS):
        for expert in range(NUM_EXPERTS):
            strips = reader.expert(layer, expert)
            gate, up, down = (
                part.astype(np.float64) for part in (strips.gate, strips.up, strips.down)
            )
            for number, row in enumerate(rows.astype(np.float64)):
                found[layer, expert, number] = expert_result(gate, up, down, row)
    return found

"""Experts one by one, of both layouts, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.tensor_files import read_header
from experts.checkpoint.types import NUMPY_DTYPES
from infra.errors import ConfigError
from tests.experts.checkpoint.tiny_checkpoint import (
    NUM_EXPERTS,
    Tensors,
    config,
    fused,
    one_by_one,
    write_file,
    write_model,
)

EXPERT = "model.layers.1.mlp.experts.0"


def contents(reader: CheckpointReader) -> dict[tuple[int, int], list[list[list[float]]]]:
    """Gate, up and down projection of each expert, as lists."""
    found = {}
    for layer in range(reader.config.shape.num_layers):
        for expert in range(reader.config.shape.num_experts):
            strips = reader.expert(layer, expert)
            found[layer, expert] = [
                part.tolist() for part in (strips.gate, strips.up, strips.down)
            ]
    return found


def written(tensors: Tensors, layers: tuple[int, ...]) -> dict[tuple[int, int], Any]:
    return {
        (number, expert): [
            tensors[f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"].tolist()
            for part in ("gate", "up", "down")
        ]
        for number, layer in enumerate(layers)
        for expert in range(NUM_EXPERTS)
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
@pytest.mark.parametrize("is_fused", [False, True])
def test_each_expert_is_read_as_it_was_written(
    tmp_path: Path, dtype: type[np.generic], is_fused: bool
) -> None:
    tensors = one_by_one(dtype=dtype)
    stored = fused(tensors) if is_fused else tensors
    reader = CheckpointReader.open(write_model(tmp_path, config(), stored))
    assert contents(reader) == written(tensors, (0, 1))
    assert NUMPY_DTYPES[reader.dtype] is dtype


def test_experts_are_found_in_several_files_and_beside_dense_layers(tmp_path: Path) -> None:
    tensors = one_by_one((1, 3))
    dense = {"model.layers.0.mlp.gate_proj.weight": np.zeros((99, 4), np.int8)}
    names = sorted(tensors)
    parts = (names[::2], names[1::2])
    first, second = ({name: tensors[name] for name in part} for part in parts)
    folder = write_model(
        tmp_path, config(num_hidden_layers=4, decoder_sparse_step=2), first, second, dense
    )
    assert contents(CheckpointReader.open(folder)) == written(tensors, (1, 3))


def test_a_view_does_not_change_the_file(tmp_path: Path) -> None:
    reader = CheckpointReader.open(write_model(tmp_path, config(), one_by_one()))
    before = (tmp_path / "model.safetensors").read_bytes()
    gate = reader.expert(0, 0).gate
    gate[:] = -1
    assert not gate.flags.owndata
    assert (tmp_path / "model.safetensors").read_bytes() == before


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            without(one_by_one(), f"{EXPERT}.up_proj.weight"),
            f"has no tensor {EXPERT}.up_proj.weight: the checkpoint is not whole",
        ),
        (
            {**one_by_one(), f"{EXPERT}.up_proj.weight": np.zeros((4, 3), np.float32)},
            r"up_proj.weight has the shape \[4, 3\]; by its config.json it is \[3, 4\]",
        ),
        (
            {**one_by_one(), f"{EXPERT}.up_proj.bias": np.zeros(3, np.float32)},
            f"has the tensor {EXPERT}.up_proj.bias, which the expert tier has no place for",
        ),
        (one_by_one(dtype=np.int8), "has experts of I8: the expert tier reads"),
        (
            {**one_by_one(), f"{EXPERT}.up_proj.weight": np.zeros((3, 4), np.float16)},
            "has experts of F16, F32: the expert tier reads those that are all of one of",
        ),
    ],
)
def test_a_checkpoint_that_is_not_as_expected_is_refused(
    tmp_path: Path, tensors: Tensors, says: str
) -> None:
    folder = write_model(tmp_path / "my-model", config(), tensors)
    with pytest.raises(ConfigError, match="my-model.*" + says):
        CheckpointReader.open(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    with pytest.raises(ConfigError, match="has neither model"):
        CheckpointReader.open(tmp_path)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "cannot be read as an index"),
        ('{"weight_map": []}', "cannot be read as an index"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "names files outside its folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors cannot be read"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, index: str, says: str) -> None:
    folder = write_model(tmp_path, config(), one_by_one())
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ConfigError, match=says):
        CheckpointReader.open(folder)


@pytest.mark.parametrize("num_bytes", [0, 4, 50])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, one_by_one())
    whole = path.read_bytes()
    path.write_bytes(whole[:num_bytes])
    with pytest.raises(ConfigError, match="cannot be read as a safetensors file"):
        read_header(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=r"is not whole: it has \d+ of \d+ bytes"):
        read_header(path)


def test_a_tensor_of_too_few_bytes_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, config(), one_by_one())
    path = folder / "model.safetensors"
    text = path.read_bytes().replace(b'"data_offsets": [0, 48]', b'"data_offsets": [0, 44]')
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"in model.safetensors has 44 bytes for the shape"):
        CheckpointReader.open(folder)

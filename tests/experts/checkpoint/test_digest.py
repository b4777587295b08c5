"""A model's digest says which model it is, and not where."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experts.checkpoint.digest import model_digest
from experts.checkpoint.model_config import moe_config
from experts.checkpoint.reader import CheckpointReader
from tests.experts.checkpoint.tiny_checkpoint import config, fused, one_by_one, write_model


def test_a_model_has_the_same_digest_wherever_its_folder_is_and_in_either_layout(
    tmp_path: Path,
) -> None:
    layouts = {"a": one_by_one(), "b": one_by_one(), "c": fused(one_by_one())}
    folders = [write_model(tmp_path / name, config(), layouts[name]) for name in layouts]
    first, second, third = (CheckpointReader.open(folder).digest for folder in folders)
    assert first == second == third
    assert first.startswith("sha256:")


@pytest.mark.parametrize("layer", [0, 1])
def test_another_training_of_a_model_has_another_digest(tmp_path: Path, layer: int) -> None:
    trained = {
        name: numbers + 1 if f"layers.{layer}." in name else numbers
        for name, numbers in one_by_one().items()
    }
    folders = [
        write_model(tmp_path / "a", config(), one_by_one()),
        write_model(tmp_path / "b", config(), trained),
    ]
    first, second = (CheckpointReader.open(folder).digest for folder in folders)
    assert first != second


def test_each_fact_changes_the_digest() -> None:
    known = moe_config("a", config())
    shape = known.shape
    others = [
        replace(known, shape=replace(shape, num_experts=3)),
        replace(known, shape=replace(shape, top_k=2)),
        replace(known, shape=replace(shape, hidden_size=shape.intermediate_size)),
        replace(known, transformer_layers=(0, 2)),
        replace(known, block="block_sparse_moe"),
        replace(known, gate=known.up, up=known.gate),
    ]
    sample = [np.arange(4.0)]
    digests = {model_digest(one, sample) for one in (known, *others)}
    assert len(digests) == len(others) + 1
    assert model_digest(known, [np.arange(1, 5.0)]) not in digests

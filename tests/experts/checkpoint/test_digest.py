"""A model's digest says which model it is, and not where."""

from dataclasses import replace
from pathlib import Path

from experts.checkpoint.digest import model_digest
from experts.checkpoint.model_config import moe_config, read_config
from tests.experts.checkpoint.tiny_checkpoint import config, one_by_one, write_model


def test_a_model_has_the_same_digest_wherever_its_folder_is(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / name, config(), one_by_one()) for name in ("a", "b")]
    first, second = (model_digest(read_config(folder)) for folder in folders)
    assert first == second
    assert first.startswith("sha256:")


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
    assert len({model_digest(one) for one in (known, *others)}) == len(others) + 1

"""The compiled pass over a few tokens says what transformers says of the same weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from deployments.drafts.model import few_rows
from deployments.drafts.model.draft_model import DraftModel
from deployments.drafts.model.few_rows import MAX_ROWS, Weights8
from deployments.drafts.model.kv_pages import PAGE_TOKENS
from tests.deployments.drafts.model.test_draft_model import (
    KINDS,
    KV_BYTES,
    Reader,
    Says,
    says,
    text,
)
from tests.deployments.models.carve.tiny_llama import write_tiny_llama

ODD: dict[str, Any] = {"model_type": "llama", "vocab_size": 259}


@pytest.fixture(
    scope="module", params=[*KINDS.values(), ODD], ids=[*KINDS, "llama of an odd vocabulary"]
)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights are such as 8 bits can say."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("model"), **request.param)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            scales = tensor.abs().amax(dim=1, keepdim=True) / 127
            tensors[name] = (tensor / scales).round() * scales
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def expected(directory: Path) -> Says:
    return says(directory)


@pytest.fixture
def reader(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """One that does not fall back on torch's products."""

    def never(*_: Any) -> None:
        raise AssertionError("so few rows are for the compiled pass")

    monkeypatch.setattr(DraftModel, "_through", never)
    return Reader(directory, "int8")


def agree(found: Sequence[tuple[int, float]], expected: Sequence[tuple[int, float]]) -> None:
    assert [token_id for token_id, _ in found] == [token_id for token_id, _ in expected]
    assert [chance for _, chance in found] == pytest.approx([c for _, c in expected], rel=2e-3)


def test_a_text_is_read_in_parts_over_several_pages(reader: Reader, expected: Says) -> None:
    ids, at = text(2 * PAGE_TOKENS + 8), 0
    for length in (3, 1, MAX_ROWS, 2, 5, MAX_ROWS, 4, MAX_ROWS, 1):
        found = reader.read((0, ids[at : at + length], at))
        at += length
        agree(found, [expected(ids[:at])])
    assert at == len(ids)


def test_sequences_are_read_side_by_side(reader: Reader, expected: Says) -> None:
    texts = [text(length, seed) for seed, length in enumerate((1, 4, 2))]
    found = reader.read(*((number, ids, 0) for number, ids in enumerate(texts)))
    agree(found, [expected(ids) for ids in texts])
    more = [text(1 + seed % 3, 100 + seed) for seed in range(len(texts))]
    found = reader.read(*((number, ids, len(texts[number])) for number, ids in enumerate(more)))
    both = [before + after for before, after in zip(texts, more, strict=True)]
    agree(found, [expected(ids) for ids in both])


def test_a_sequence_is_taken_back_and_goes_on_otherwise(reader: Reader, expected: Says) -> None:
    ids = text(MAX_ROWS)
    reader.read((0, ids, 0))
    for kept in (5, 1, 0):
        ids = ids[:kept] + text(4, seed=kept + 9)
        agree(reader.read((0, ids[kept:], kept)), [expected(ids)])


def test_what_torch_has_read_is_gone_on_with(directory: Path, expected: Says) -> None:
    # Its products round what goes into them, so the text's first part is read in float32.
    exact, reader = Reader(directory), Reader(directory, "int8")
    ids = text(3 * PAGE_TOKENS)
    exact.read((0, ids[:-1], 0))
    reader.read((0, ids[:-1], 0))
    reader.model.pages.keys.copy_(exact.model.pages.keys)
    reader.model.pages.values.copy_(exact.model.pages.values)
    assert reader.pages == exact.pages
    agree(reader.read((0, ids[-1:], len(ids) - 1)), [expected(ids)])


def test_weights_are_rounded_output_by_output() -> None:
    weights = np.array([[[1, -2, 0.5], [0, 0, 0], [400, 100, -50]]], np.float32)
    found = Weights8.of(weights, np.array([[1, 2, 3]], np.float32))
    assert found.rounded.shape == (1, 4, 3)
    back = found.rounded * found.scales[..., None]
    assert np.abs(back[:, :3] - weights).max(axis=-1) == pytest.approx(0, abs=400 / 254)
    assert (found.rounded[0, 1] == 0).all()
    assert found.biases.tolist() == [[1, 2, 3, -np.inf]]


def test_large_weights_are_left_to_several_threads(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = DraftModel(directory, KV_BYTES, "cpu", "int8")._few
    monkeypatch.setattr(few_rows, "_FEW_BYTES", 1000)
    large = DraftModel(directory, KV_BYTES, "cpu", "int8")._few
    assert small is not None
    assert large is not None
    quicker = [few.is_quicker(MAX_ROWS, num) for few in (small, large) for num in (1, 2)]
    assert quicker == [True, True, True, False]
    assert not small.is_quicker(MAX_ROWS + 1, 1)

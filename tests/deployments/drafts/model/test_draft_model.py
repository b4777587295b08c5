"""The draft model says what transformers says, however its tokens come."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.drafts.model.draft_model import Chunk, DraftModel
from deployments.drafts.model.kv_pages import PAGE_TOKENS
from infra.errors import ConfigError
from router.speculation.settings import DraftPrecision
from tests.deployments.models.carve.tiny_llama import write_tiny_llama

KV_BYTES = 1 << 20
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama with its embedding for a head": {"model_type": "llama", "tie_word_embeddings": True},
    "llama with all biases": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "qwen2, which has biases": {"model_type": "qwen2", "rope_theta": 1e6},
    "qwen3, which norms its heads": {"model_type": "qwen3", "head_dim": 8},
    "llama 3.1, of which some heads turn slower": {
        "model_type": "llama",
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama, slowed": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    },
    "mistral, with heads of another size": {"model_type": "mistral", "head_dim": 8},
}
Says = Callable[[Sequence[int]], tuple[int, float]]


def says(directory: Path) -> Says:
    """The likeliest token after these, and how likely it is, by transformers."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - takes seconds

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def likeliest(token_ids: Sequence[int]) -> tuple[int, float]:
        with torch.inference_mode():
            logits = model(torch.tensor([list(token_ids)])).logits[0, -1]
        chance, token_id = logits.softmax(-1).max(-1)
        return int(token_id), float(chance)

    return likeliest


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"), **request.param)


@pytest.fixture(scope="module")
def expected(directory: Path) -> Says:
    return says(directory)


class Reader:
    """A draft model, and sequences in its pages."""

    def __init__(self, directory: Path, precision: DraftPrecision = "full") -> None:
        self.model = DraftModel(directory, KV_BYTES, "cpu", precision)
        self.pages: dict[int, list[int]] = {}

    def read(self, *parts: tuple[int, Sequence[int], int]) -> list[tuple[int, float]]:
        """Of each sequence: these tokens, after so many."""
        chunks = []
        for number, token_ids, start in parts:
            pages = self.pages.setdefault(number, [])
            assert self.model.pages.grow(pages, start + len(token_ids))
            chunks.append(Chunk(token_ids, start, pages))
        said = self.model.read(chunks)
        self.model.pages.check_invariants(self.pages.values())
        return list(zip(said.token_ids, said.chances, strict=True))


def text(num_tokens: int, seed: int = 0) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(3, 256, num_tokens).tolist()
    return found


def agree(found: Sequence[tuple[int, float]], expected: Sequence[tuple[int, float]]) -> None:
    assert [token_id for token_id, _ in found] == [token_id for token_id, _ in expected]
    assert [chance for _, chance in found] == pytest.approx([c for _, c in expected], rel=1e-3)


def test_sequences_of_all_lengths_are_read_in_one_batch(
    directory: Path, expected: Says
) -> None:
    reader = Reader(directory)
    lengths = (1, PAGE_TOKENS - 1, PAGE_TOKENS, 3 * PAGE_TOKENS + 5, 2)
    texts = [text(length, seed) for seed, length in enumerate(lengths)]
    found = reader.read(*((number, ids, 0) for number, ids in enumerate(texts)))
    agree(found, [expected(ids) for ids in texts])
    more = [text(1 + seed % 3, 100 + seed) for seed in range(len(texts))]
    found = reader.read(*((number, ids, len(texts[number])) for number, ids in enumerate(more)))
    both = [before + after for before, after in zip(texts, more, strict=True)]
    agree(found, [expected(ids) for ids in both])


def test_it_makes_no_difference_in_how_many_parts_a_sequence_is_read(
    directory: Path, expected: Says
) -> None:
    reader = Reader(directory)
    ids, at = text(40), 0
    for number, length in enumerate((3, 14, 1, 1, 21)):
        other = (100 + number, text(5 + 7 * number, number), 0)
        found = reader.read(other, (0, ids[at : at + length], at))
        at += length
        agree(found[1:], [expected(ids[:at])])


def test_a_sequence_is_taken_back_and_goes_on_otherwise(
    directory: Path, expected: Says
) -> None:
    reader = Reader(directory)
    ids = text(2 * PAGE_TOKENS + 3)
    reader.read((0, ids, 0), (1, text(5, 5), 0))
    for kept in (2 * PAGE_TOKENS, PAGE_TOKENS - 1, 1, 0):
        ids = ids[:kept] + text(4, seed=kept + 9)
        agree(reader.read((0, ids[kept:], kept)), [expected(ids)])
    found = reader.read((1, [7], 5), (0, [8, 9], len(ids)))
    agree(found, [expected([*text(5, 5), 7]), expected([*ids, 8, 9])])


def test_pages_that_another_sequence_has_used_are_as_good_as_new(
    directory: Path, expected: Says
) -> None:
    reader = Reader(directory)
    reader.read((0, text(50), 0), (1, text(60, 1), 0))
    reader.model.pages.give_back(reader.pages[0])
    reader.model.pages.give_back(reader.pages[1])
    ids = text(20, 2)
    agree(reader.read((2, ids, 0), (3, ids[:3], 0)), [expected(ids), expected(ids[:3])])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("whole"))


def copied(whole: Path, directory: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """Its configuration with these fields, and its tensors, not yet saved."""
    config = json.loads((whole / "config.json").read_text()) | fields
    (directory / "config.json").write_text(json.dumps(config))
    tensors: dict[str, torch.Tensor] = load_file(whole / "model.safetensors")
    return tensors


def test_a_reduced_head_says_the_tokens_that_it_has(whole: Path, tmp_path: Path) -> None:
    kept = torch.arange(5, 256, 7)
    tensors = copied(whole, tmp_path, draft_vocab_size=len(kept))
    tensors["lm_head.weight"] = tensors["lm_head.weight"][kept].contiguous()
    tensors["d2t"] = kept - torch.arange(len(kept))
    save_file(tensors, tmp_path / "model.safetensors")
    reader, full = Reader(tmp_path), DraftModel(whole, KV_BYTES)
    for seed in range(5):
        ids = text(9, seed)
        ((token_id, chance),) = reader.read((seed, ids, 0))
        assert token_id in kept.tolist()
        pages: list[int] = []
        full.pages.grow(pages, len(ids))
        ((best,), (best_chance,)) = full.read([Chunk(ids, 0, pages)])
        assert chance > best_chance if best == token_id else best not in kept.tolist()


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"]
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    whole: Path, tmp_path: Path, name: str
) -> None:
    tensors = copied(whole, tmp_path)
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=name):
        DraftModel(tmp_path, KV_BYTES)

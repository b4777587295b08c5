"""What a draft model's configuration says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.drafts.model.draft_config import DraftConfig
from deployments.drafts.model.rotary import Rotary, Slowing
from infra.errors import ConfigError

FIELDS: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
}
CONFIG = DraftConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    rms_norm_eps=1e-5,
    rotary=Rotary(10_000.0),
    vocab_size=300,
    head_vocab_size=300,
    is_head_tied=False,
)


def read(directory: Path, **changes: Any) -> DraftConfig:
    fields = FIELDS | changes
    (directory / "config.json").write_text(json.dumps(fields))
    return DraftConfig.read(directory)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"model_type": "qwen2", "tie_word_embeddings": True}, {"is_head_tied": True}),
        ({"model_type": "mistral", "head_dim": 16}, {"head_size": 16}),
        ({"num_key_value_heads": None, "head_dim": None}, {"num_kv_heads": 4}),
        ({"model_type": "qwen3", "head_dim": 16}, {"head_size": 16, "has_head_norms": True}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rotary": Rotary(5e5)}),
        (
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
            {"rotary": Rotary(1e6)},
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rotary": Rotary(1e6, Slowing(2.0))},
        ),
        ({"draft_vocab_size": 100}, {"head_vocab_size": 100}),
    ],
)
def test_its_shape_is_read(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read(tmp_path, **changes) == replace(CONFIG, **expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "llama, mistral, qwen2, qwen3, not gpt2; make one with"),
        ({"model_type": None}, "not None"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, r"json: .* the type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "the type 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "does not say 'factor'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_what_cannot_be_run_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        read(tmp_path, **changes)


def test_what_is_not_said_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match=r"config\.json does not say 'num_attention_heads'"):
        DraftConfig.read(tmp_path)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7"])
def test_a_directory_without_a_configuration_is_refused(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        DraftConfig.read(tmp_path)

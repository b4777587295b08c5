"""Models, numbers and texts that cannot be carved: each is refused, and nothing is left."""

from pathlib import Path
from typing import Any

import pytest

from deployments.models.carve.carving import carve_into
from deployments.models.carve.texts import Texts
from infra.errors import ConfigError
from infra.progress import SILENT
from tests.deployments.models.carve.tiny_llama import TEXTS, settings, write_tiny_llama

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("dense") / "tiny")


def carve(source: Path, out_dir: Path, **changes: Any) -> None:
    carve_into(out_dir, source, TEXTS, settings(**changes), SILENT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, "its activation is 'gelu', not silu"),
        ({"mlp_bias": True}, "its feed-forward networks have biases"),
        ({"attention_bias": True}, "its attention output has a bias"),
        ({"head_dim": 8}, "its heads have 8 dimensions"),
        ({"model_type": "mistral", "sliding_window": 8}, "attend to a window"),
        ({"model_type": "gpt2"}, "'gpt2' cannot be carved; .*llama, mistral, qwen2"),
    ],
)
def test_a_model_that_qwen2_moe_cannot_hold_is_refused_and_nothing_left(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = write_tiny_llama(tmp_path / "dense", **changes)
    with pytest.raises(ConfigError, match=words):
        carve(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_numbers_that_do_not_divide_are_refused_with_some_that_do(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a shared expert of 8 would do"):
        carve(tiny, tmp_path / "out", shared_size=9)
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_too_short_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each part needs 16 tokens; one has 5"):
        carve_into(tmp_path / "out", tiny, Texts("x", "a" * 100, "short"), settings(), SILENT)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "dense", vocab_size=60)
    with pytest.raises(ConfigError, match="not among the model's 60 tokens"):
        carve(source, tmp_path / "out")


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "dense")
    (source / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(ConfigError, match=r"config\.json cannot be understood"):
        carve(source, tmp_path / "out")


@pytest.mark.parametrize("damage", ["no weights", "cut short", "a tensor lacks"])
def test_a_damaged_source_is_refused(damage: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - takes seconds

    path = write_tiny_llama(tmp_path / "dense") / "model.safetensors"
    if damage == "no weights":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        tensors = load_file(path)
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors, path)
    with pytest.raises(
        ConfigError, match=r"no safetensors|cannot be read|has no tensor .*up_proj"
    ):
        carve(tmp_path / "dense", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]

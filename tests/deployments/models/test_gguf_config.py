import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.models.gguf_config import attention_scalar, llama3_rope, rope_scaling
from infra.errors import ConfigError

THETA = 500000.0
HEAD_DIM = 64


def scaled(kind: str, arch: str = "llama", **keys: float) -> dict[str, Any]:
    given_keys = {f"{arch}.rope.scaling.{key}": value for key, value in keys.items()}
    return {"general.architecture": arch, f"{arch}.rope.scaling.type": kind} | given_keys


def llama3_divisors(factor: float, original: float = 8192) -> list[float]:
    """The slow twin: frequencies scaled as the Llama 3.1 reference code does it."""
    divisors = []
    for index in range(HEAD_DIM // 2):
        frequency = THETA ** (-2 * index / HEAD_DIM)
        turns = original * frequency / (2 * math.pi)
        share = min(max((turns - 1) / 3, 0.0), 1.0)
        divisors.append(frequency / (share * frequency + (1 - share) * frequency / factor))
    return divisors


def test_a_file_without_scaling_leaves_rope_alone() -> None:
    assert rope_scaling({"general.architecture": "llama"}) == {}
    assert rope_scaling(scaled("none", factor=8.0)) == {}
    assert rope_scaling(scaled("linear", factor=1.0)) == {}


def test_linear_scaling_is_taken_over() -> None:
    metadata = scaled("linear", "gemma3", factor=8.0)
    assert rope_scaling(metadata) == {"rope_type": "linear", "factor": 8.0}


def test_yarn_scaling_is_taken_over_with_its_original_length() -> None:
    metadata = scaled("yarn", "qwen2", factor=4.0, original_context_length=32768)
    assert rope_scaling(metadata) == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }


@pytest.mark.parametrize(
    "metadata", [scaled("longrope", factor=4.0), scaled("yarn", factor=4.0)]
)
def test_scaling_that_cannot_be_expressed_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rope scaling of type"):
        rope_scaling(metadata)


@given(factor=st.sampled_from([2.0, 8.0, 16.0, 32.0]))
def test_llama_3_parameters_are_recovered_from_the_divisors(factor: float) -> None:
    assert llama3_rope(llama3_divisors(factor), THETA) == {
        "rope_type": "llama3",
        "factor": pytest.approx(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_divisors_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="not Llama 3's"):
        llama3_rope(llama3_divisors(8.0, original=4096), THETA)


def gemma(arch: str, num_layers: int, heads: int, hidden: int) -> dict[str, Any]:
    return {
        "general.architecture": arch,
        f"{arch}.block_count": num_layers,
        f"{arch}.attention.head_count": heads,
        f"{arch}.embedding_length": hidden,
    }


def test_only_the_27b_models_of_gemma_scale_attention_by_their_width() -> None:
    assert attention_scalar(gemma("gemma3", 62, heads=32, hidden=5376)) == 168.0
    assert attention_scalar(gemma("gemma2", 46, heads=32, hidden=4608)) == 144.0
    assert attention_scalar(gemma("gemma3", 18, heads=4, hidden=640)) is None
    assert attention_scalar(gemma("llama", 62, heads=32, hidden=5376)) is None

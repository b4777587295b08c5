"""What a GGUF file says about its model beyond what transformers reads from it.

transformers maps the plain hyperparameters. It passes over rope scaling and
one attention scale, and a model served without them answers fluently and
wrongly; so they are read here, and what cannot be expressed is refused.

    metadata key (or tensor)        becomes
    <arch>.rope.scaling.type/factor rope_type, factor of full-attention layers
    rope_freqs.weight (llama)       rope_type "llama3"
    gemma3/gemma2 of 27B            query_pre_attn_scalar = hidden size / heads
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from infra.errors import ConfigError

Metadata = Mapping[str, Any]

# Gemma scales attention by 1/sqrt(head size), but its 27B models by
# 1/sqrt(hidden size / heads); they are told by their depth, as llama.cpp does.
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
_OWN_ROPE_READING = ("gpt-oss", "gpt_oss", "qwen35", "qwen35moe")
_LLAMA3_ORIGINAL_TOKENS = 8192
_LLAMA3_LOW, _LLAMA3_HIGH = 1.0, 4.0


def attention_scalar(metadata: Metadata) -> float | None:
    """`query_pre_attn_scalar` where it is not the config class's default, else None."""
    arch = metadata["general.architecture"]
    if metadata.get(f"{arch}.block_count") != _GEMMA_27B_LAYERS.get(arch, -1):
        return None
    heads = int(metadata[f"{arch}.attention.head_count"])
    return int(metadata[f"{arch}.embedding_length"]) / heads


def rope_scaling(metadata: Metadata) -> dict[str, Any]:
    """Rope parameters that the metadata states beside theta; empty if unscaled.

    Raises `ConfigError` for a kind of scaling that is not understood.
    """
    arch = metadata["general.architecture"]
    prefix = f"{arch}.rope.scaling"
    kind, factor = metadata.get(f"{prefix}.type", "none"), metadata.get(f"{prefix}.factor")
    if kind == "none" or arch in _OWN_ROPE_READING or factor in (None, 0.0, 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn":
        original = metadata.get(f"{prefix}.original_context_length")
        if original is not None:
            return {
                "rope_type": "yarn",
                "factor": float(factor),
                "original_max_position_embeddings": int(original),
            }
    raise ConfigError(
        f"the GGUF file uses rope scaling of type {kind!r}, which its conversion does not "
        "cover; give the original checkpoint as a directory instead"
    )


def llama3_rope(divisors: Sequence[float], theta: float) -> dict[str, Any]:
    """Rope parameters of Llama 3.1 and later from the file's `rope_freqs` tensor.

    `divisors` Shape: [head_dim / 2]; each divides one rotary frequency. The
    file holds these instead of the four numbers they follow from, so those are
    guessed (factor = largest divisor, the rest as every Llama 3 has them) and
    the guess is checked against the tensor. Raises `ConfigError` if it fails.
    Formula: `convert_hf_to_gguf.py` of llama.cpp, `LlamaModel.generate_extra_tensors`.
    """
    factor = max(divisors)
    expected = [
        _llama3_divisor(theta ** (index / len(divisors)), factor)
        for index in range(len(divisors))
    ]
    if not all(
        math.isclose(a, b, rel_tol=1e-4) for a, b in zip(divisors, expected, strict=True)
    ):
        raise ConfigError(
            "the GGUF file scales its rotary frequencies (rope_freqs.weight) in a way that "
            "is not Llama 3's; give the original checkpoint as a directory instead"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": _LLAMA3_ORIGINAL_TOKENS,
    }


def _llama3_divisor(inverse_frequency: float, factor: float) -> float:
    wavelength = 2 * math.pi * inverse_frequency
    if wavelength < _LLAMA3_ORIGINAL_TOKENS / _LLAMA3_HIGH:
        return 1.0
    if wavelength > _LLAMA3_ORIGINAL_TOKENS / _LLAMA3_LOW:
        return factor
    smooth = (_LLAMA3_ORIGINAL_TOKENS / wavelength - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
    return 1 / ((1 - smooth) / factor + smooth)

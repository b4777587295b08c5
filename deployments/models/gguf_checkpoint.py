"""From a GGUF file to a checkpoint that every engine reads.

Heavy to import (torch, transformers); `gguf_converter` is the light way in.
"""

import functools
import logging
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, read_gguf_metadata
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict
from transformers.utils import logging as transformers_logging

from deployments.models.gguf_config import (
    Metadata,
    attention_scalar,
    llama3_rope,
    rope_scaling,
)
from deployments.models.gguf_tokenizer import build_tokenizer, stop_token_ids
from infra.errors import ConfigError
from infra.progress import Progress

_ROPE_FREQUENCIES = "rope_freqs.weight"
_TOKENS = "tokenizer.ggml.tokens"
# llama.cpp's names of what transformers lists under its own.
_ALIASES = ("gpt-oss", "minimax-m2", "qwen2moe", "qwen3moe")
# A truncated or damaged file fails somewhere in the parser, in one of these ways.
_PARSER_ERRORS = (OSError, ValueError, LookupError, OverflowError, MemoryError, struct.error)
_NOT_CAUSAL = {"general", "tokenizer", "t5", "umt5"}


def write_checkpoint(source: Path, target: Path, progress: Progress) -> None:
    """Write weights, configuration and tokenizer of the GGUF file into `target`.

    Raises `ConfigError` if the file is damaged, its architecture or tokenizer
    is not supported, or a part of it would be lost.
    """
    with _damage_is_a_config_error(source), _parsing_once():
        metadata, tensor_names = read_gguf_metadata(str(source), (_TOKENS,))
        check_supported(source, metadata)
        progress.report("building the tokenizer", None)
        tokenizer = build_tokenizer(source, metadata)
        progress.report("reading the configuration", None)
        config = _build_config(source, metadata)
        model = _load_model(source, config, progress)
        _check_all_read(model, metadata, tensor_names)
    stops = stop_token_ids(metadata[_TOKENS], metadata)
    model.generation_config = _generation_config(config, stops)
    progress.report("writing the checkpoint", None)
    with _quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def supported_architectures() -> list[str]:
    """Names that `general.architecture` of a GGUF file may have."""
    mapped = set(modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES)
    return sorted((mapped | set(_ALIASES) | GGUF_CONFIG_ARCHS.keys()) - _NOT_CAUSAL)


def check_supported(source: Path, metadata: Metadata) -> None:
    """Raise `ConfigError` unless the file is whole and of a supported architecture."""
    architecture = metadata["general.architecture"]
    if architecture not in supported_architectures():
        raise ConfigError(
            f"GGUF file {source.name} holds a model of architecture {architecture!r}, which "
            f"cannot be converted. Supported: {', '.join(supported_architectures())}. "
            "Give the original checkpoint as a directory instead"
        )
    if int(metadata.get("split.count", 1)) > 1:
        raise ConfigError(
            f"GGUF file {source.name} is one part of {metadata['split.count']}; merge them "
            "into one file first (llama-gguf-split --merge)"
        )
    if not isinstance(metadata.get(_TOKENS), list):
        raise ConfigError(f"GGUF file {source.name} has no vocabulary; it is not a whole model")


@contextmanager
def _damage_is_a_config_error(source: Path) -> Iterator[None]:
    try:
        yield
    except _PARSER_ERRORS as error:
        raise ConfigError(
            f"GGUF file {source} cannot be read, it may be damaged or cut short: {error}"
        ) from error


def _build_config(source: Path, metadata: Metadata) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
    scalar = attention_scalar(metadata)
    if scalar is not None:
        config.query_pre_attn_scalar = scalar
    scaling = rope_scaling(metadata) or _rope_from_tensor(source, metadata)
    if scaling:
        rope = config.rope_parameters
        rope.get("full_attention", rope).update(scaling)
    config.dtype = torch.bfloat16
    return config


def _rope_from_tensor(source: Path, metadata: Metadata) -> dict[str, Any]:
    if metadata["general.architecture"] != "llama":
        return {}
    tensors = load_gguf_state_dict(GgufHeader.from_file(str(source)))
    if _ROPE_FREQUENCIES not in tensors:
        return {}
    divisors = tensors[_ROPE_FREQUENCIES][...].float().tolist()
    return llama3_rope(divisors, float(metadata["llama.rope.freq_base"]))


def _load_model(source: Path, config: PretrainedConfig, progress: Progress) -> PreTrainedModel:
    with _quiet(), _reporting_tensors(progress):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(source.parent),
            gguf_file=source.name,
            config=config,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    lost = {kind: names for kind, names in info.items() if names}
    if lost:
        raise ConfigError(f"GGUF file {source.name} does not fit its architecture: {lost}")
    # Saved as plain weights, which a quantization entry in the config would contradict.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _check_all_read(
    model: PreTrainedModel, metadata: Metadata, tensor_names: Iterable[str]
) -> None:
    """Raise `ConfigError` if the file has tensors that the converter passed over."""
    arch = metadata["general.architecture"]
    if arch in GGUF_CONFIG_ARCHS:
        return  # this loader names unread tensors in its loading info
    processors = modeling_gguf_pytorch_utils.TENSOR_PROCESSORS
    processor = processors.get(arch, modeling_gguf_pytorch_utils.TensorProcessor)(
        config=model.config.to_dict()
    )
    mapping = modeling_gguf_pytorch_utils.get_gguf_hf_weights_map(model, processor)
    read = {name.removesuffix(".weight") for name in (*mapping, "output", _ROPE_FREQUENCIES)}
    unread = [name for name in tensor_names if name.removesuffix(".weight") not in read]
    if unread:
        raise ConfigError(
            f"{len(unread)} tensors of the GGUF file have no place in {type(model).__name__}, "
            f"{', '.join(unread[:4])} among them; give the original checkpoint as a directory"
        )


def _generation_config(config: PretrainedConfig, stops: list[int]) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=stops[0] if len(stops) == 1 else stops or None,
        pad_token_id=config.pad_token_id,
    )


@contextmanager
def _reporting_tensors(progress: Progress) -> Iterator[None]:
    """Report each tensor as it is dequantized.

    transformers shows a bar of its own there and offers no hook; standing in
    for the bar is the one way to hear of single tensors.
    """

    def bar(items: list[Any], **_: object) -> Iterator[Any]:
        for index, item in enumerate(items):
            progress.report("dequantizing", index / len(items))
            yield item
        progress.report("dequantizing", 1.0)

    with _replaced(modeling_gguf_pytorch_utils, "tqdm", bar):
        yield


@contextmanager
def _parsing_once() -> Iterator[None]:
    """Let transformers parse the file once, and name the tensors once.

    It does the first twice and the second for every submodule; together that
    is half of the time a small model takes. Both are functions of their
    arguments alone.
    """
    with (
        _replaced(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        _replaced(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
    ):
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars and notes of transformers; its warnings would confuse an operator."""
    level = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bars:
            transformers_logging.enable_progress_bar()

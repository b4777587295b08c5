"""The routed experts of a checkpoint, one by one, without reading the others.

Two layouts are known; `L` is a transformer layer, `E` an expert:

    each expert    model.layers.L.mlp.experts.E.gate_proj.weight   [intermediate, hidden]
                   ....up_proj.weight                              [intermediate, hidden]
                   ....down_proj.weight                            [hidden, intermediate]
    fused          model.layers.L.mlp.experts.gate_up_proj         [num_experts, 2 * i., hidden]
                   model.layers.L.mlp.experts.down_proj            [num_experts, hidden, i.]

Mixtral says `block_sparse_moe` for `mlp`, and `w1`, `w3`, `w2` for gate, up and down; its
fused layout, which only transformers writes, has `mlp` and the names above. In the fused
layout the gate's rows come before the up projection's.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.checkpoint.digest import model_digest
from experts.checkpoint.model_config import read_config
from experts.checkpoint.tensor_files import TensorFiles, find_tensors
from experts.checkpoint.types import (
    NUMPY_DTYPES,
    Dtype,
    ExpertStrips,
    MoeConfig,
    TensorPlace,
)
from infra.errors import ConfigError

_DTYPES: dict[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class CheckpointReader:
    """The routed experts of a model. May be used by several threads."""

    def __init__(self, config: MoeConfig, places: Mapping[str, TensorPlace]) -> None:
        """Raises ConfigError where an expert is missing, or is not as the shape says."""
        self.config = config
        self._files = TensorFiles()
        self._is_fused = _fused_names(config, config.transformer_layers[0])[0] in places
        found = {name: _checked(config, name, shape, places) for name, shape in self._needed()}
        self._places: Mapping[str, TensorPlace] = found
        self.dtype = _one_dtype(config, found)
        _refuse_others(config, places, found)

    @classmethod
    def open(cls, folder: Path) -> "CheckpointReader":
        """The model in this folder; reads its configuration and the files' headers.

        Raises:
            ConfigError: there is none, or the expert tier cannot serve it; says why.
        """
        return cls(read_config(folder), find_tensors(folder))

    @cached_property
    def digest(self) -> str:
        """Names the model, wherever its folder is.

        Another training of it has another one, unless it has left a row of an expert in
        each layer as it was: that is all that is read, of each layer of the next expert.
        """
        return model_digest(self.config, self._sample())

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        """One logical expert of one mixture-of-experts layer, counted from 0."""
        index, dtype = self.config.transformer_layers[layer], NUMPY_DTYPES[self.dtype]
        size = self.config.shape.intermediate_size
        if not self._is_fused:
            gate, up, down = (
                self._files.view(self._places[name], dtype)
                for name in _expert_names(self.config, index, expert)
            )
            return ExpertStrips(gate, up, down, self.dtype)
        both, down = (
            self._files.view(self._places[name], dtype)[expert]
            for name in _fused_names(self.config, index)
        )
        return ExpertStrips(both[:size], both[size:], down, self.dtype)

    def _sample(self) -> Iterator[NDArray[Any]]:
        shape = self.config.shape
        for layer in range(shape.num_layers):
            yield self.expert(layer, layer % shape.num_experts).gate[0]

    def _needed(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all tensors of routed experts."""
        shape = self.config.shape
        hidden, inner, count = shape.hidden_size, shape.intermediate_size, shape.num_experts
        for index in self.config.transformer_layers:
            if self._is_fused:
                both, fused_down = _fused_names(self.config, index)
                yield both, (count, 2 * inner, hidden)
                yield fused_down, (count, hidden, inner)
                continue
            for expert in range(count):
                gate, up, down = _expert_names(self.config, index, expert)
                yield gate, (inner, hidden)
                yield up, (inner, hidden)
                yield down, (hidden, inner)


def _expert_names(config: MoeConfig, index: int, expert: int) -> tuple[str, str, str]:
    start = f"model.layers.{index}.{config.block}.experts.{expert}"
    return (
        f"{start}.{config.gate}.weight",
        f"{start}.{config.up}.weight",
        f"{start}.{config.down}.weight",
    )


def _fused_names(config: MoeConfig, index: int) -> tuple[str, str]:
    start = f"model.layers.{index}.mlp.experts"
    return f"{start}.gate_up_proj", f"{start}.down_proj"


def _checked(
    config: MoeConfig, name: str, shape: tuple[int, ...], places: Mapping[str, TensorPlace]
) -> TensorPlace:
    place = places.get(name)
    if place is None:
        raise ConfigError(f"{config.name} has no tensor {name}: the checkpoint is not whole")
    if place.shape != shape:
        raise ConfigError(
            f"{config.name}: the tensor {name} has the shape {list(place.shape)}; by its "
            f"config.json it is {list(shape)}"
        )
    return place


def _one_dtype(config: MoeConfig, places: Mapping[str, TensorPlace]) -> Dtype:
    found = {place.dtype for place in places.values()}
    if len(found) == 1 and found <= _DTYPES.keys():
        dtype = _DTYPES[found.pop()]
        _check_sizes(config, places, np.dtype(NUMPY_DTYPES[dtype]).itemsize)
        return dtype
    raise ConfigError(
        f"{config.name} has experts of {', '.join(sorted(found))}: the expert tier reads those "
        f"that are all of one of {', '.join(_DTYPES)}"
    )


def _check_sizes(
    config: MoeConfig, places: Mapping[str, TensorPlace], number_bytes: int
) -> None:
    for name, place in places.items():
        num_bytes = place.end_byte - place.first_byte
        if num_bytes != math.prod(place.shape) * number_bytes:
            raise ConfigError(
                f"{config.name}: the tensor {name} in {place.path.name} has {num_bytes} bytes "
                f"for the shape {list(place.shape)} in {place.dtype}"
            )


def _refuse_others(
    config: MoeConfig, places: Mapping[str, TensorPlace], known: Mapping[str, TensorPlace]
) -> None:
    """What else the experts have, biases or scales, would be left out without a word."""
    blocks = {
        f"model.layers.{index}.{block}"
        for index in config.transformer_layers
        for block in (config.block, "mlp")
    }
    for name in places:
        block, of_experts, _ = name.partition(".experts.")
        if of_experts and block in blocks and name not in known:
            raise ConfigError(
                f"{config.name} has the tensor {name}, which the expert tier has no place for: "
                "it computes experts without biases and scales"
            )

"""The tensors of a folder of safetensors files, mapped into memory.

A file begins with the length of its header (8 bytes, little-endian), then the header:
JSON from each tensor's name to its type, shape, and where its bytes are, counted from
the header's end. `model.safetensors.index.json` names the file of each tensor where
there are several (https://github.com/huggingface/safetensors, "Format").
"""

import json
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.checkpoint.types import TensorPlace
from infra.errors import ConfigError

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def find_tensors(folder: Path) -> dict[str, TensorPlace]:
    """Where each tensor of the model is. Reads the headers alone.

    Raises:
        ConfigError: the folder has no safetensors files, or one is not whole.
    """
    places: dict[str, TensorPlace] = {}
    for path in _files(folder):
        places.update(read_header(path))
    return places


def read_header(path: Path) -> dict[str, TensorPlace]:
    """Where each tensor of one file is.

    Raises:
        ConfigError: it is no safetensors file, or its end is missing.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= _MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            start = _LENGTH_BYTES + length
            places = {name: _place(path, start, entry) for name, entry in header.items()}
        num_bytes = path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as a safetensors file: {error!r}") from None
    end = max((place.end_byte for place in places.values()), default=0)
    if end > num_bytes:
        raise ConfigError(f"{path} is not whole: it has {num_bytes} of {end} bytes")
    return places


class TensorFiles:
    """Files that are mapped at their first use, and stay mapped while a view is used.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._path_to_bytes: dict[Path, NDArray[np.uint8]] = {}

    def view(self, place: TensorPlace, dtype: type[np.generic]) -> NDArray[Any]:
        """The tensor. Nothing is read until the view is; what is written to it, against
        the rule, does not reach the file. Shape: `place.shape`.
        """
        found = self._path_to_bytes.get(place.path)
        if found is None:
            found = self._path_to_bytes.setdefault(place.path, _mapped(place.path))
        return found[place.first_byte : place.end_byte].view(dtype).reshape(place.shape)


def _mapped(path: Path) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        # torch takes no array that may not be written to.
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(mapping, np.uint8)


def _files(folder: Path) -> Iterable[Path]:
    index = folder / _INDEX
    if not index.exists():
        if not (folder / _WHOLE).exists():
            raise ConfigError(f"{folder} has neither {_WHOLE} nor {_INDEX}")
        return [folder / _WHOLE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} cannot be read as an index: {error!r}") from None
    if any(Path(name).name != name for name in names):
        raise ConfigError(f"{index} names files outside its folder")
    return [folder / name for name in sorted(names)]


def _place(path: Path, start: int, entry: Mapping[str, Any]) -> TensorPlace:
    first, end = entry["data_offsets"]
    return TensorPlace(path, entry["dtype"], tuple(entry["shape"]), start + first, start + end)

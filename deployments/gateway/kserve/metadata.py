"""What the server and a model say of themselves, whatever the KServe door.

Plain mappings with the protocol's names: JSON for HTTP, keyword arguments for messages.
"""

import importlib.metadata
from typing import Any

from deployments.gateway.kserve.request import VERSION
from deployments.gateway.kserve.tensors import INPUT_TYPES, OUTPUT_TYPES
from deployments.types import ModelCard

PLATFORM = "coterie"
_EXTENSIONS = ("generate", "parameters")


def server_metadata() -> dict[str, Any]:
    """Name, version, extensions of the protocol."""
    return {
        "name": PLATFORM,
        "version": importlib.metadata.version("coterie"),
        "extensions": _EXTENSIONS,
    }


def model_metadata(card: ModelCard) -> dict[str, Any]:
    """The model's tensors; a length of -1 is the request's `n`. A model that embeds has
    none: these doors only generate.
    """
    generates = card.task == "generate"
    return {
        "name": card.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [1]}
            for name, datatype in INPUT_TYPES.items()
            if generates
        ],
        "outputs": [
            {"name": name, "datatype": kind.datatype, "shape": [kind.num_values]}
            for name, kind in OUTPUT_TYPES.items()
            if generates
        ],
    }

"""By what engines, hosts and directors tell that they mean the same model."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from experts.checkpoint.types import MoeConfig


def model_digest(config: MoeConfig, sample: Iterable[NDArray[Any]]) -> str:
    """The same wherever the model's folder is; another for a model of another shape, or
    with other numbers in the `sample` of its weights."""
    facts = {
        "shape": asdict(config.shape),
        "layers": config.transformer_layers,
        "names": (config.block, config.gate, config.up, config.down),
        "activation": config.activation,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for numbers in sample:
        digest.update(numbers.tobytes())
    return f"sha256:{digest.hexdigest()}"

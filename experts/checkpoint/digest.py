"""By what engines, hosts and directors tell that they mean the same model."""

import hashlib
import json
from dataclasses import asdict

from experts.checkpoint.types import MoeConfig


def model_digest(config: MoeConfig) -> str:
    """The same wherever the model's folder is; another for a model of another shape.

    It is made from `config.json` alone, with which the sizes of all experts are given. No
    weight is read: two trainings of one architecture are not told apart.
    """
    facts = {
        "shape": asdict(config.shape),
        "layers": config.transformer_layers,
        "names": (config.block, config.gate, config.up, config.down),
        "activation": config.activation,
    }
    text = json.dumps(facts, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

"""A small mixture of experts of random numbers behind the built-in model's tokenizer."""

import shutil
from dataclasses import replace
from pathlib import Path

from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR
from tests.builders.moe_checkpoints import TINY_MODELS


def write_small_moe(folder: Path) -> Path:
    """The folder, with four experts in each of three layers; it takes 512 tokens."""
    [mixtral] = [model for model in TINY_MODELS if model.name == "Mixtral"]
    replace(mixtral, settings=mixtral.settings | {"vocab_size": 49152}).write(folder)
    tokenizer = Path(resolve_model("smollm2-135m-instruct", STATE_DIR).path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder)
    return folder

"""What is taken over from a model in a directory by another that is made of it."""

import shutil
from pathlib import Path
from typing import Any

from infra.errors import ConfigError

# What is of the text and not of the weights, and on what terms all of it is given.
_TRAVELLING = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)


def copy_travelling(source: Path, target: Path) -> None:
    """Tokenizer, templates, defaults and terms."""
    for pattern in _TRAVELLING:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def read_config(directory: Path) -> Any:
    """The configuration as `transformers` has it. Raises `ConfigError`."""
    from transformers import AutoConfig  # noqa: PLC0415 - takes seconds

    try:
        return AutoConfig.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{directory / 'config.json'} cannot be understood: {error}"
        ) from error

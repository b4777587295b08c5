"""Model references: what an operator may write for `model`.

    smollm2-135m-instruct          built-in name
    smollm2-carved-16x12           built-in name: a mixture of experts carved from it
    ./my-model, ~/my-model         local directory with weights, config and tokenizer
    models/gemma-3-270m.gguf       GGUF file
    owner/name                     hub id, left to the engine to fetch

A built-in name wins over a directory of that name (write `./name` for the
directory), and an existing path wins over a hub id. What looks like a path
is never taken for a hub id.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deployments.models.builtin import NAME_TO_BUILTIN, find_builtin
from infra.errors import ConfigError

ReferenceKind = Literal["builtin", "directory", "gguf", "hub"]

GGUF_MAGIC = b"GGUF"
_HUB_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_ID = re.compile(f"{_HUB_PART}/{_HUB_PART}")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "*.tiktoken")


@dataclass(frozen=True)
class ModelReference:
    """A reference that was understood.

    `path` is absolute; it is the GGUF file for a built-in name, and None for
    a hub id.
    """

    text: str
    kind: ReferenceKind
    path: Path | None


def parse_reference(text: str) -> ModelReference:
    """Understand `text`; relative paths count from the working directory.

    Looks at the file system, reads four bytes at most. Raises `ConfigError`
    with the nearest built-in name and the accepted forms if nothing fits.
    """
    if text in NAME_TO_BUILTIN:
        return ModelReference(text, "builtin", find_builtin(NAME_TO_BUILTIN[text]))
    path = Path(text).expanduser()
    if text and path.exists():
        return _local(text, path.absolute())
    if _looks_like_path(text):
        raise ConfigError(f"model {text!r}: there is no such file or directory. {_accepted()}")
    if _HUB_ID.fullmatch(text):
        return ModelReference(text, "hub", None)
    raise ConfigError(f"unknown model {text!r}.{_nearest(text)} {_accepted()}")


def _local(text: str, path: Path) -> ModelReference:
    if path.is_dir():
        _check_directory(text, path)
        return ModelReference(text, "directory", path)
    if not _is_gguf(path):
        raise ConfigError(f"model {text!r} is a file, but not a GGUF file. {_accepted()}")
    return ModelReference(text, "gguf", path)


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError as error:
        raise ConfigError(f"model file {path} cannot be read: {error.strerror}") from error


def _check_directory(text: str, path: Path) -> None:
    missing = [
        what
        for what, patterns in (
            ("config.json", ("config.json",)),
            ("weights (*.safetensors)", _WEIGHTS),
            ("a tokenizer (tokenizer.json)", _TOKENIZERS),
        )
        if not _has_any(path, patterns)
    ]
    if not missing:
        return
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    hint = f" It holds {', '.join(ggufs)}: name that file instead." if ggufs else ""
    raise ConfigError(f"model directory {text!r} lacks {', '.join(missing)}.{hint}")


def _has_any(directory: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(directory.glob(pattern), None) for pattern in patterns)


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~"))
        or text.endswith((".gguf", "/"))
        or text.count("/") > 1
        or "\\" in text
    )


def _nearest(text: str) -> str:
    names = difflib.get_close_matches(text.lower(), NAME_TO_BUILTIN, n=1)
    return f" Did you mean {names[0]!r}?" if names else ""


def _accepted() -> str:
    names = ", ".join(NAME_TO_BUILTIN)
    return (
        f"A model reference is a built-in name ({names}), a local directory, "
        "a GGUF file, or a hub id of the form owner/name"
    )

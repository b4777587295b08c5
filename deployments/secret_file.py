"""Secrets that the processes of one cluster share, each in a file of its owner's."""

import contextlib
import os
import tempfile
from pathlib import Path

from infra.errors import ConfigError

MIN_SECRET_CHARS = 16


def shared_secret(path: Path) -> str:
    """The secret in the file; where there is none, a random one is put there first.

    The file appears whole, and of several processes that make it one wins. Raises
    ConfigError where it cannot be made, or what it holds is too short to be a secret.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        return checked_secret(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be made or read: {error}; put a secret of {MIN_SECRET_CHARS} "
            "characters or more there"
        ) from error


def checked_secret(secret: str, where: str) -> str:
    """The same secret. Raises ConfigError for an empty or a short one."""
    if len(secret.strip()) < MIN_SECRET_CHARS:
        raise ConfigError(
            f"{where} holds under {MIN_SECRET_CHARS} characters, which is no secret; remove it "
            "to have one made, or put a longer one there"
        )
    return secret


def _make(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(os.urandom(32).hex())
            file.flush()
            os.fsync(handle)
        # Unlike a rename, a link takes nobody's place.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()

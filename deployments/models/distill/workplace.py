"""Where an unfinished draft's data lies: beside what it is to become, until it has."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deployments.models.atomic import write_json
from infra.errors import ConfigError

_IDENTITY = "begun.json"


@contextmanager
def workplace(out_dir: Path, identity: Mapping[str, object]) -> Iterator[Path]:
    """A directory of this process alone, which stays if the block fails.

    `identity` is of what is made there: raises `ConfigError` if some of something else is
    done already, if another process is at it, or if there is something at `out_dir`.
    """
    out_dir = out_dir.expanduser().absolute()
    if out_dir.exists() and not (out_dir.is_dir() and not any(out_dir.iterdir())):
        raise ConfigError(f"{out_dir} is there already; choose another directory or remove it")
    place = place_of(out_dir)
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process is making {out_dir} at the moment") from error
        _check_identity(place, json.loads(json.dumps(identity)))
        yield place
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)


def place_of(out_dir: Path) -> Path:
    """The directory beside `out_dir` in which it is made."""
    return out_dir.with_name(f".{out_dir.name}.distilling")


def is_begun(out_dir: Path) -> bool:
    """Whether some of the work for `out_dir` is done, and not all."""
    return _has_data(place_of(out_dir.expanduser().absolute()))


def _has_data(place: Path) -> bool:
    return any(path.is_file() and path.name != _IDENTITY for path in place.rglob("*"))


def _check_identity(place: Path, identity: Mapping[str, object]) -> None:
    path = place / _IDENTITY
    if not _has_data(place):
        write_json(path, identity)
        return
    begun = json.loads(path.read_text())
    other = sorted(key for key in identity if identity[key] != begun.get(key))
    if other:
        raise ConfigError(
            f"{place} was begun with other values of {', '.join(other)}; give the same again "
            "to go on, or remove it to begin anew"
        )

"""The manifest of a converted model: what it was made from, by what, and its files.

It is written last, so a directory without one is not a finished conversion.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from deployments.models.atomic import write_json

MANIFEST_NAME = "coterie-manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """One file of a conversion."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Origin and files of a conversion; files are named relative to its directory."""

    source_sha256: str
    converter: str
    name_to_file: dict[str, FileEntry]


def write_manifest(directory: Path, source_sha256: str, converter: str) -> Manifest:
    """Digest every file in `directory` and write the manifest beside them."""
    entries = {path.name: _entry(path) for path in _files(directory)}
    manifest = Manifest(source_sha256, converter, entries)
    files = {
        name: {"num_bytes": file.num_bytes, "sha256": file.sha256}
        for name, file in entries.items()
    }
    write_json(
        directory / MANIFEST_NAME,
        {"source_sha256": source_sha256, "converter": converter, "files": files},
    )
    return manifest


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest, or None if there is none that can be understood."""
    try:
        value = json.loads((directory / MANIFEST_NAME).read_bytes())
        entries = {
            str(name): FileEntry(int(file["num_bytes"]), str(file["sha256"]))
            for name, file in value["files"].items()
        }
        return Manifest(str(value["source_sha256"]), str(value["converter"]), entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_intact(directory: Path, source_sha256: str, converter: str) -> bool:
    """Whether `directory` is a whole conversion of that source by that converter.

    Compares names and sizes only, which takes well under a millisecond.
    """
    manifest = read_manifest(directory)
    if manifest is None or (manifest.source_sha256, manifest.converter) != (
        source_sha256,
        converter,
    ):
        return False
    try:
        sizes = {path.name: path.stat().st_size for path in _files(directory)}
    except OSError:
        return False
    return all(
        sizes.get(name) == file.num_bytes for name, file in manifest.name_to_file.items()
    )


def _files(directory: Path) -> list[Path]:
    return sorted(
        path for path in directory.iterdir() if path.is_file() and path.name != MANIFEST_NAME
    )


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path.stat().st_size, digest)

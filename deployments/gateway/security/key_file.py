"""The file of API keys: read, written, and read anew when it changes."""

import fcntl
import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deployments.gateway.security.api_keys import KeyEntry, KeyRing, without_keys
from deployments.gateway.security.file_watch import Signature, signature_of
from infra.atomic_file import replacing
from infra.errors import ConfigError
from infra.section import Section
from infra.section_file import parse_section
from infra.strict_yaml import read_yaml_file

log = logging.getLogger(__name__)

_HEADER = (
    "# API keys, by their SHA-256. `coterie key` writes this file; it holds no key itself.\n"
)


class KeyFileSection(Section):
    """What is in the file."""

    keys: list[KeyEntry] = []
    """One entry a key."""


class KeyFile:
    """The keys of a file that are in effect.

    `known_tenants` are the tenants that entries may name; None is any. A file
    that does not hold when it changes leaves the keys as they were, is complained
    of in the log once, and tried again until it holds.
    """

    def __init__(self, path: Path, known_tenants: Collection[str] | None = None) -> None:
        """Reads the file. Raises ConfigError that names `gateway.api_keys_file`."""
        self._path = path
        self._known_tenants = known_tenants
        self._signature: Signature | None = signature_of(path)
        self._complaint = ""
        try:
            self.ring = self._read()
        except ConfigError as error:
            advice = "" if path.exists() else f"; `coterie key new TENANT -f {path}` makes it"
            raise ConfigError(f"gateway.api_keys_file: {error}{advice}") from error

    def refresh(self) -> None:
        """Take the file's keys if it has changed; some microseconds if it has not."""
        found = signature_of(self._path)
        if found == self._signature:
            return
        try:
            self.ring = self._read()
        except ConfigError as error:
            if self._complaint != str(error):
                log.error(
                    "the changed file of API keys is not taken, the old keys stay: %s", error
                )
            self._complaint = str(error)
            return
        self._signature, self._complaint = found, ""
        log.warning("%s has changed: %d API keys", self._path, len(self.ring))

    def _read(self) -> KeyRing:
        entries = read_entries(self._path)
        with _keys_unseen():
            _check_tenants(entries, self._known_tenants, self._path)
        return KeyRing(entries)


def read_entries(path: Path) -> list[KeyEntry]:
    """The entries of a file. Raises ConfigError with one line for each problem."""
    with _keys_unseen():
        return parse_section(KeyFileSection, read_yaml_file(path)).keys


@contextmanager
def _keys_unseen() -> Iterator[None]:
    """A ConfigError of the block shows no key, though an operator wrote one into the file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(without_keys(error.message)) from None


@contextmanager
def changing(path: Path) -> Iterator[list[KeyEntry]]:
    """The entries, to be changed in a block; then they are the file's, whole.

    A file that is not there has none, and is made with mode 0600; one that is there
    keeps its mode and, where permitted, its owner and group, as a gateway of another
    user must go on reading it. Others who do the same wait for each other. Raises
    ConfigError.
    """
    # Through a link, so that it goes on pointing to the file.
    path = path.resolve()
    with _locked(path.parent):
        entries = read_entries(path) if path.exists() else []
        yield entries
        KeyRing(entries)
        _write(path, entries)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; make the folder first") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    try:
        with replacing(path) as file:
            file.write(_text_of(entries).encode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _text_of(entries: Sequence[KeyEntry]) -> str:
    """One line an entry. JSON is YAML too, and leaves no text to be misread."""
    plain = [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]
    lines = [f"  - {json.dumps(entry)}\n" for entry in plain]
    return _HEADER + ("keys:\n" + "".join(lines) if lines else "keys: []\n")


def _check_tenants(
    entries: Sequence[KeyEntry], known: Collection[str] | None, path: Path
) -> None:
    if known is None:
        return
    strangers = sorted({entry.tenant for entry in entries} - set(known))
    if strangers:
        raise ConfigError(
            f"{path}: keys for {', '.join(strangers)}, which `tenants` of the configuration "
            f"does not name; it names {', '.join(sorted(known)) or 'none'}"
        )

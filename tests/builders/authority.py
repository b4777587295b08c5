"""A certificate authority for tests, by the `openssl` command."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """Makes certificates for loopback and for clients, in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self._openssl("req", "-x509", *self._new_key(name), *self._subject(name))
        self.file = folder / f"{name}.crt"

    def issue(self, name: str) -> Pair:
        """A certificate for `localhost` and 127.0.0.1, good for servers and clients."""
        extensions = self._folder / "extensions.txt"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        request = str(self._folder / f"{name}.csr")
        key = str(self._folder / f"{name}.key")
        made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        self._openssl("req", *made, "-keyout", key, "-out", request, *self._subject(name))
        signed_by = ("-CA", str(self.file), "-CAkey", str(self._folder / f"{self._name}.key"))
        out = self._folder / f"{name}.crt"
        self._openssl(
            *("x509", "-req", "-in", request, *signed_by, "-days", "2"),
            *("-extfile", str(extensions), "-out", str(out)),
        )
        return Pair(out, Path(key))

    def locked(self, key: Path) -> Path:
        """The same private key behind a password."""
        out = key.with_suffix(".locked")
        password = ("-aes256", "-passout", "pass:secret")
        self._openssl("pkey", "-in", str(key), *password, "-out", str(out))
        return out

    def _new_key(self, name: str) -> tuple[str, ...]:
        made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2")
        stem = str(self._folder / name)
        return (*made, "-keyout", f"{stem}.key", "-out", f"{stem}.crt")

    def _subject(self, name: str) -> tuple[str, str]:
        return ("-subj", f"/CN={name}")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)

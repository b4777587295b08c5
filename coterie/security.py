"""How a client shows who it is, and knows whom it talks to: API key and TLS."""

import logging
import ssl
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypedDict

import grpc

from coterie.errors import ConfigError, InvalidArgumentError

log = logging.getLogger("coterie")


class SecurityKeywords(TypedDict, total=False):
    """The fields of `Security`, as keywords of the clients."""

    api_key: str | None
    tls: bool
    ca_file: str | Path | None
    client_certificate_file: str | Path | None
    client_key_file: str | Path | None


@dataclass(frozen=True, kw_only=True)
class Security:
    """Key and certificates of a client.

    `tls` turns TLS on with the authorities that gRPC knows; each of the files
    turns it on too. All files are PEM.
    """

    api_key: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | Path | None = None
    client_certificate_file: str | Path | None = None
    client_key_file: str | Path | None = None

    def __post_init__(self) -> None:
        if self.api_key is not None and not (
            self.api_key.isascii() and self.api_key.isprintable()
        ):
            raise InvalidArgumentError(
                "api_key has characters that no key has; is a line break at its end?",
                param="api_key",
            )
        if (self.client_certificate_file is None) != (self.client_key_file is None):
            raise InvalidArgumentError(
                "give both client_certificate_file and client_key_file, or neither",
                param="client_key_file",
            )

    @property
    def keywords(self) -> SecurityKeywords:
        """As a client takes it."""
        return SecurityKeywords(
            api_key=self.api_key,
            tls=self.tls,
            ca_file=self.ca_file,
            client_certificate_file=self.client_certificate_file,
            client_key_file=self.client_key_file,
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call. It holds the key: never log it."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    @property
    def has_tls(self) -> bool:
        """TLS is asked for, in one way or another."""
        return bool(self.tls or self.ca_file or self.client_certificate_file)

    def ssl_context(self) -> ssl.SSLContext | None:
        """For HTTP; None where there are no files, and the system's authorities do.

        Raises ConfigError for a file that holds no certificates, or no such key.
        """
        if not (self.ca_file or self.client_certificate_file):
            return None
        try:
            context = ssl.create_default_context(cafile=_path(self.ca_file))
        except OSError as error:
            raise ConfigError(f"{self.ca_file}: no certificates: {error}") from error
        certificate = _path(self.client_certificate_file)
        if certificate is not None:
            try:
                # A password for no key: else OpenSSL would ask for one at the terminal.
                context.load_cert_chain(certificate, _path(self.client_key_file), "")
            except OSError as error:
                raise ConfigError(
                    f"{certificate} and {self.client_key_file} are no certificate and its "
                    f"key without a password: {error}"
                ) from error
        return context

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel; None for plain text. Raises ConfigError for a file that
        cannot be read."""
        if not self.has_tls:
            return None
        return grpc.ssl_channel_credentials(
            _read("ca_file", self.ca_file),
            _read("client_key_file", self.client_key_file),
            _read("client_certificate_file", self.client_certificate_file),
        )


@cache
def warn_of_plain_text(address: str) -> None:
    """Say, once an address, that a key is sent where others may read it."""
    log.warning(
        "the API key for %s goes over the network in plain text; use TLS (ca_file or tls)",
        address,
    )


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _read(name: str, path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{name}: {path} is not in PEM")
    return content

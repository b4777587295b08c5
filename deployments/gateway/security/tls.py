"""TLS of both doors: certificates from files, and anew when these change.

Connections that are open keep what they began with; new ones get the new certificate.

The files are read once for both doors, and what was read is what is checked and what
is loaded. A context that is in use is never changed, since connections are made of it
while the files are looked at on a thread: each reading makes a context of its own, and
a connection is made of the newest one.

A session that is resumed shows no certificate. Each context keeps its own sessions, so
that nobody resumes one from before a change: whoever had got in would get in still after
the authority for clients was taken away.
"""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc

from deployments.gateway.security.file_watch import Signature, signature_of
from deployments.settings import TlsSection
from infra.errors import ConfigError

log = logging.getLogger(__name__)

_PEM_MARK = b"-----BEGIN CERTIFICATE-----"


class _Pems(NamedTuple):
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class _InEffect(NamedTuple):
    """One reading of the files, for each door; both change at once."""

    grpc: grpc.ServerCertificateConfiguration
    http: ssl.SSLContext


class TlsFiles:
    """The certificates in effect, in the form that each door's server takes.

    Files that do not hold when they change leave all as it was, and are complained
    of in the log once; they are tried again until they hold.
    """

    def __init__(self, section: TlsSection) -> None:
        """Reads the files. Raises ConfigError that names the key of the bad one."""
        self._section = section
        self._signatures = self._look()
        self._complaint = ""
        pems = _read(section)
        self._in_effect = _load(pems, section)
        self._grpc_given = self._in_effect.grpc
        self.http_context: ssl.SSLContext = _NewestContext(lambda: self._in_effect.http)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For one server, which asks for changes at each new connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._in_effect.grpc,
            self._changed_grpc,  # type: ignore[arg-type]  # None is "no change"
            require_client_authentication=self._section.client_ca_file is not None,
        )

    def refresh(self) -> None:
        """Take the files if they have changed."""
        found = self._look()
        if found == self._signatures:
            return
        try:
            self._in_effect = _load(_read(self._section), self._section)
        except ConfigError as error:
            if self._complaint != str(error):
                log.error("changed certificates are not taken, the old ones stay: %s", error)
            self._complaint = str(error)
            return
        self._signatures, self._complaint = found, ""
        log.warning("%s has changed and is in effect", self._section.certificate_file)

    def _look(self) -> list[Signature | None]:
        return [signature_of(path) for path in _paths(self._section)]

    def _changed_grpc(self) -> grpc.ServerCertificateConfiguration | None:
        newest = self._in_effect.grpc
        if newest is self._grpc_given:
            return None
        self._grpc_given = newest
        return newest


class _NewestContext(ssl.SSLContext):
    """Stands for a context that is replaced; for the servers of asyncio, which wrap BIOs.

    To point a handshake at another context would be too late: by then the session is
    found that the client resumes.
    """

    def __new__(cls, _newest: Callable[[], ssl.SSLContext]) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, newest: Callable[[], ssl.SSLContext]) -> None:
        self._newest = newest

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        """As `SSLContext.wrap_bio`, of the newest one."""
        return self._newest().wrap_bio(*args, **named)


def _paths(section: TlsSection) -> list[Path]:
    given = (section.certificate_file, section.key_file, section.client_ca_file)
    return [path for path in given if path is not None]


def _read(section: TlsSection) -> _Pems:
    client_ca = section.client_ca_file
    return _Pems(
        _bytes("certificate_file", section.certificate_file),
        _bytes("key_file", section.key_file),
        None if client_ca is None else _bytes("client_ca_file", client_ca),
    )


def _load(pems: _Pems, section: TlsSection) -> _InEffect:
    """Raises ConfigError for what does not hold or does not belong together."""
    return _InEffect(http=_http_context(pems, section), grpc=_grpc_configuration(pems))


def _bytes(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"gateway.tls.{key}: {path}: {error.strerror}") from error


def _http_context(pems: _Pems, section: TlsSection) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        with _in_memory(pems.certificate) as certificate, _in_memory(pems.key) as key:
            # Without a password OpenSSL would ask the terminal for that of a locked key.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ConfigError(_fault(section, pems, error)) from error
    if pems.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, pems.client_ca, section)
        _give_no_tickets(context)
    return context


def _trust(context: ssl.SSLContext, client_ca: bytes, section: TlsSection) -> None:
    try:
        with _in_memory(client_ca) as path:
            context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"gateway.tls.client_ca_file: {section.client_ca_file} holds no certificate in PEM"
        ) from error


def _give_no_tickets(context: ssl.SSLContext) -> None:
    """Give clients no tickets, so that each shows its certificate each time. (TLS 1.2 has
    sessions without tickets too; those end with their context.)"""
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Path of a file on no disk: OpenSSL takes files alone, and those may have changed."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _fault(section: TlsSection, pems: _Pems, error: ssl.SSLError) -> str:
    certificate, key = section.certificate_file, section.key_file
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"gateway.tls.key_file: {key} is not the key of certificate_file {certificate}"
    if _PEM_MARK not in pems.certificate:
        return f"gateway.tls.certificate_file: {certificate} holds no certificate in PEM"
    return f"gateway.tls.key_file: {key} holds no private key in PEM without a password"


def _grpc_configuration(pems: _Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pems.key, pems.certificate)], root_certificates=pems.client_ca
    )

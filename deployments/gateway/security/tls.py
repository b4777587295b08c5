"""TLS of both doors: certificates from files, and anew when these change.

Connections that are open keep what they began with; new ones get the new certificate.
"""

import logging
import ssl
from pathlib import Path
from typing import NamedTuple

import grpc

from deployments.gateway.security.file_watch import Signature, signature_of
from deployments.settings import TlsSection
from infra.errors import ConfigError

log = logging.getLogger(__name__)


class _Pems(NamedTuple):
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class TlsFiles:
    """The certificates in effect, in the form that each door's server takes.

    Files that do not hold when they change leave all as it was, and are complained
    of in the log once.
    """

    def __init__(self, section: TlsSection) -> None:
        """Reads the files. Raises ConfigError that names the key of the bad one."""
        self._section = section
        self._signatures = self._look()
        self._grpc = _grpc_configuration(_read(section))
        self._grpc_given = self._grpc
        self.http_context = _http_context(section)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For one server, which asks for changes at each new connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._grpc,
            self._changed_grpc,  # type: ignore[arg-type]  # None is "no change"
            require_client_authentication=self._section.client_ca_file is not None,
        )

    def refresh(self) -> None:
        """Take the files if they have changed."""
        found = self._look()
        if found == self._signatures:
            return
        self._signatures = found
        try:
            pems = _read(self._section)
        except ConfigError as error:
            log.error("changed certificates are not taken, the old ones stay: %s", error)
            return
        self._grpc = _grpc_configuration(pems)
        _load(self.http_context, self._section)
        log.warning("%s has changed and is in effect", self._section.certificate_file)

    def _look(self) -> list[Signature | None]:
        return [signature_of(path) for path in _paths(self._section)]

    def _changed_grpc(self) -> grpc.ServerCertificateConfiguration | None:
        if self._grpc is self._grpc_given:
            return None
        self._grpc_given = self._grpc
        return self._grpc


def _paths(section: TlsSection) -> list[Path]:
    given = (section.certificate_file, section.key_file, section.client_ca_file)
    return [path for path in given if path is not None]


def _read(section: TlsSection) -> _Pems:
    """The files, which hold and belong together."""
    client_ca = section.client_ca_file
    pems = _Pems(
        _bytes("certificate_file", section.certificate_file),
        _bytes("key_file", section.key_file),
        None if client_ca is None else _bytes("client_ca_file", client_ca),
    )
    # A context of its own: a bad pair would leave half of itself in one that is in use.
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), section)
    return pems


def _bytes(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"gateway.tls.{key}: {path}: {error.strerror}") from error


def _http_context(section: TlsSection) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if section.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    _load(context, section)
    return context


def _load(context: ssl.SSLContext, section: TlsSection) -> None:
    certificate, key = section.certificate_file, section.key_file
    try:
        # Without a password OpenSSL would ask the terminal for that of a locked key.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ConfigError(_fault(section, error)) from error
    try:
        if section.client_ca_file is not None:
            context.load_verify_locations(section.client_ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"gateway.tls.client_ca_file: {section.client_ca_file} holds no certificate in PEM"
        ) from error


def _fault(section: TlsSection, error: ssl.SSLError) -> str:
    certificate, key = section.certificate_file, section.key_file
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"gateway.tls.key_file: {key} is not the key of certificate_file {certificate}"
    if b"-----BEGIN CERTIFICATE-----" not in certificate.read_bytes():
        return f"gateway.tls.certificate_file: {certificate} holds no certificate in PEM"
    return f"gateway.tls.key_file: {key} holds no private key in PEM without a password"


def _grpc_configuration(pems: _Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pems.key, pems.certificate)], root_certificates=pems.client_ca
    )

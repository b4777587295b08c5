"""New certificates and authorities are taken without touching what is in use."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.gateway.security.tls import TlsFiles
from deployments.settings import TlsSection
from infra.errors import ConfigError
from tests.builders.authority import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def section(authority: Authority) -> TlsSection:
    certificate, key = authority.issue("gateway")
    return TlsSection(certificate_file=certificate, key_file=key)


@asynccontextmanager
async def listening(files: TlsFiles) -> AsyncIterator[int]:
    """A server that greets whoever has got in."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=files.http_context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def certificate_at(port: int) -> str:
    """Served to a client that names no server."""
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=10)


async def gets_in(port: int, authority: Authority, client: Pair) -> bool:
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(client.certificate, client.key)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        greeting = await reader.read()
    except (ssl.SSLError, ConnectionError):
        return False
    writer.close()
    return greeting == b"hello"


def put(new: Pair, section: TlsSection) -> None:
    shutil.copy(new.certificate, section.certificate_file)
    shutil.copy(new.key, section.key_file)


async def test_a_renewal_changes_no_context_that_is_in_use(
    section: TlsSection, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TlsFiles(section)
    changed: list[ssl.SSLContext] = []
    load = ssl.SSLContext.load_cert_chain

    def noted(context: ssl.SSLContext, *args: Any, **named: Any) -> None:
        changed.append(context)
        load(context, *args, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", noted)
    async with listening(files) as port:
        old = await certificate_at(port)
        put(authority.issue("renewed"), section)
        await asyncio.to_thread(files.refresh)
        assert await certificate_at(port) != old
    assert len(changed) == 1
    assert files.http_context not in changed


async def test_a_renewal_while_connections_are_made_harms_none(
    section: TlsSection, authority: Authority
) -> None:
    files = TlsFiles(section)
    renewed = [authority.issue("one"), authority.issue("two")]
    async with listening(files) as port, asyncio.timeout(60):
        for turn in range(10):
            put(renewed[turn % 2], section)
            work = asyncio.to_thread(files.refresh)
            served, *_ = await asyncio.gather(*(certificate_at(port) for _ in range(4)), work)
            assert served


async def test_an_authority_for_clients_that_was_taken_away_lets_nobody_in(
    section: TlsSection, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "next").mkdir()
    new = Authority(tmp_path / "next", "next")
    trusted = tmp_path / "clients.pem"
    shutil.copy(authority.file, trusted)
    files = TlsFiles(section.model_copy(update={"client_ca_file": trusted}))
    old_client, new_client = authority.issue("client"), new.issue("client")
    async with listening(files) as port:
        assert await gets_in(port, authority, old_client)
        shutil.copy(new.file, trusted)
        files.refresh()
        assert await gets_in(port, authority, new_client)
        assert not await gets_in(port, authority, old_client)


class ReturningClient:
    """Resumes its session, wherever the server lets it."""

    def __init__(self, authority: Authority, pair: Pair, version: ssl.TLSVersion) -> None:
        self._context = ssl.create_default_context(cafile=authority.file)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._context.maximum_version = version
        self._session: ssl.SSLSession | None = None

    def gets_in(self, port: int) -> bool:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                self._context.wrap_socket(
                    plain, server_hostname="localhost", session=self._session
                ) as secure,
            ):
                greeting = secure.recv(16)
                self._session = secure.session
        except (ssl.SSLError, ConnectionError):
            return False
        return greeting == b"hello"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nobody_of_a_removed_authority_gets_in_by_resuming_a_session(
    section: TlsSection, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    (tmp_path / "next").mkdir()
    trusted = tmp_path / "clients.pem"
    shutil.copy(authority.file, trusted)
    files = TlsFiles(section.model_copy(update={"client_ca_file": trusted}))
    client = ReturningClient(authority, authority.issue("client"), version)
    async with listening(files) as port:
        assert await asyncio.to_thread(client.gets_in, port)
        assert await asyncio.to_thread(client.gets_in, port)
        shutil.copy(Authority(tmp_path / "next", "next").file, trusted)
        files.refresh()
        assert not await asyncio.to_thread(client.gets_in, port)


async def test_what_is_served_is_what_was_checked_though_the_files_change_in_between(
    section: TlsSection, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = authority.issue("renewed")
    served_before = section.certificate_file.read_text()
    load = ssl.SSLContext.load_cert_chain

    def overtaken(context: ssl.SSLContext, *args: Any, **named: Any) -> None:
        put(new, section)
        load(context, *args, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", overtaken)
    files = TlsFiles(section)
    async with listening(files) as port:
        assert (await certificate_at(port)).strip() in served_before


def test_files_that_could_not_be_read_are_tried_again_without_a_further_change(
    section: TlsSection,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = TlsFiles(section)
    put(authority.issue("renewed"), section)
    with monkeypatch.context() as denied:
        denied.setattr("deployments.gateway.security.tls._bytes", _raise_no_access)
        files.refresh()
        files.refresh()
    assert caplog.text.count("the old ones stay") == 1
    files.refresh()
    assert "is in effect" in caplog.text


def _raise_no_access(key: str, path: Path) -> bytes:
    raise ConfigError(f"gateway.tls.{key}: {path}: Permission denied")

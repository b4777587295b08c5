"""TLS with real certificates on both doors, mutual TLS, and their rotation."""

import asyncio
import shutil
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from coterie import AsyncClient, Client, UnavailableError
from coterie.cli.main import cli
from deployments.gateway.security.tls import TlsFiles
from deployments.settings import TlsSection
from infra.errors import ConfigError
from tests.builders.authority import Authority
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.security.conftest import Keys


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def section(authority: Authority) -> dict[str, Any]:
    certificate, key = authority.issue("gateway")
    return {"certificate_file": certificate, "key_file": key}


async def models_by_grpc(address: str, **security: Any) -> int:
    async with AsyncClient(address, **security) as client:
        return len(await client.models(timeout_s=10))


async def status_by_http(address: str, context: ssl.SSLContext, key: str = "") -> int:
    async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return (await client.get(f"https://{address}/v1/models", headers=headers)).status_code


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


async def test_both_doors_speak_tls(
    service: FakeService, section: dict[str, Any], authority: Authority
) -> None:
    async with opened(service, tls=section) as (_, grpc_at, http_at):
        assert await models_by_grpc(grpc_at, ca_file=authority.file) == 1
        assert await status_by_http(http_at, trusting(authority)) == 200
        with pytest.raises(UnavailableError):
            await models_by_grpc(grpc_at)
        with pytest.raises(httpx2.HTTPError):
            async with httpx2.AsyncClient(trust_env=False) as client:
                await client.get(f"http://{http_at}/health")


async def test_a_certificate_of_another_authority_is_not_believed(
    service: FakeService, section: dict[str, Any], tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with opened(service, tls=section) as (_, grpc_at, http_at):
        with pytest.raises(UnavailableError):
            await models_by_grpc(grpc_at, ca_file=stranger.file)
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await status_by_http(http_at, trusting(stranger))


async def test_keys_are_asked_for_behind_tls_too(
    service: FakeService, section: dict[str, Any], authority: Authority, keys: Keys
) -> None:
    async with opened(service, tls=section, api_keys_file=keys.file) as (_, grpc_at, http_at):
        found = await models_by_grpc(grpc_at, ca_file=authority.file, api_key=keys.tenant)
        assert found == 1
        assert await status_by_http(http_at, trusting(authority)) == 401
        assert await status_by_http(http_at, trusting(authority), keys.tenant) == 200


async def test_with_an_authority_for_clients_only_those_with_its_certificate_get_in(
    service: FakeService, section: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    known = authority.issue("client")
    unknown = Authority(tmp_path, "stranger").issue("other-client")
    section["client_ca_file"] = authority.file
    async with opened(service, tls=section) as (_, grpc_at, http_at):
        for pair in (None, unknown, known):
            names = ("client_certificate_file", "client_key_file")
            files = dict(zip(names, pair or (), strict=False))
            context = trusting(authority)
            if pair is not None:
                context.load_cert_chain(pair.certificate, pair.key)
            if pair is known:
                found = await models_by_grpc(grpc_at, ca_file=authority.file, **files)
                assert found == 1
                assert await status_by_http(http_at, context) == 200
            else:
                with pytest.raises(UnavailableError):
                    await models_by_grpc(grpc_at, ca_file=authority.file, **files)
                with pytest.raises((httpx2.HTTPError, ssl.SSLError)):
                    await status_by_http(http_at, context)


def served_certificate(address: str) -> bytes:
    host, port = address.split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10).encode()


async def test_a_rotated_certificate_is_taken_without_a_restart_and_streams_go_on(
    service: FakeService, section: dict[str, Any], authority: Authority
) -> None:
    old = section["certificate_file"].read_bytes()
    new = authority.issue("renewed")
    async with opened(service, tls=section) as (_, grpc_at, http_at):
        async with AsyncClient(grpc_at, ca_file=authority.file) as before:
            await before.models(timeout_s=10)
            shutil.copy(new.certificate, section["certificate_file"])
            shutil.copy(new.key, section["key_file"])
            for address in (grpc_at, http_at):
                async with asyncio.timeout(20):
                    while await asyncio.to_thread(served_certificate, address) in old:
                        await asyncio.sleep(0.05)
                served = await asyncio.to_thread(served_certificate, address)
                assert served.strip() in new.certificate.read_bytes()
            assert len(await before.models(timeout_s=10)) == 1
        assert await models_by_grpc(grpc_at, ca_file=authority.file) == 1
        assert await status_by_http(http_at, trusting(authority)) == 200


def test_a_certificate_whose_key_has_not_come_yet_is_left_until_it_has(
    section: dict[str, Any], authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(TlsSection(**section))
    new = authority.issue("renewed")
    shutil.copy(new.certificate, section["certificate_file"])
    files.refresh()
    files.refresh()
    assert caplog.text.count("the old ones stay") == 1
    assert "is not the key of certificate_file" in caplog.text
    shutil.copy(new.key, section["key_file"])
    files.refresh()
    assert "is in effect" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("certificate_file", None, "certificate_file: .*No such file"),
        ("certificate_file", "no PEM", "certificate_file: .* holds no certificate in PEM"),
        ("key_file", None, "key_file: .*No such file"),
        ("key_file", "no PEM", "key_file: .* holds no private key in PEM"),
        ("client_ca_file", None, "client_ca_file: .*No such file"),
        ("client_ca_file", "no PEM", "client_ca_file: .* holds no certificate in PEM"),
    ],
)
def test_a_bad_file_is_told_by_its_key_in_the_configuration(
    section: dict[str, Any], tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_text(content)
    with pytest.raises(ConfigError, match=rf"gateway\.tls\.{words}"):
        TlsFiles(TlsSection(**(section | {name: bad})))


def test_a_key_of_another_certificate_is_told(
    section: dict[str, Any], authority: Authority
) -> None:
    section["key_file"] = authority.issue("other").key
    with pytest.raises(ConfigError, match=r"gateway\.tls\.key_file: .* is not the key of"):
        TlsFiles(TlsSection(**section))


def test_a_key_with_a_password_is_refused_and_none_is_asked_for(
    section: dict[str, Any], authority: Authority
) -> None:
    section["key_file"] = authority.locked(section["key_file"])
    with pytest.raises(ConfigError, match=r"gateway\.tls\.key_file: .* without a password"):
        TlsFiles(TlsSection(**section))


async def test_the_blocking_client_speaks_tls_as_well(
    service: FakeService, section: dict[str, Any], authority: Authority
) -> None:
    def num_models(address: str) -> int:
        with Client(address, ca_file=authority.file) as client:
            return len(client.models(timeout_s=10))

    async with opened(service, tls=section) as (_, grpc_at, _http):
        assert await asyncio.to_thread(num_models, grpc_at) == 1


@pytest.mark.parametrize("command", [["models"], ["generate", "hi"], ["tokenize", "hi"]])
async def test_a_command_enters_with_key_and_certificates(
    service: FakeService,
    section: dict[str, Any],
    authority: Authority,
    keys: Keys,
    command: list[str],
) -> None:
    client = authority.issue("client")
    section["client_ca_file"] = authority.file
    variables = {
        "COTERIE_API_KEY": keys.tenant,
        "COTERIE_CA_FILE": str(authority.file),
        "COTERIE_CLIENT_CERTIFICATE_FILE": str(client.certificate),
        "COTERIE_CLIENT_KEY_FILE": str(client.key),
    }
    async with opened(service, tls=section, api_keys_file=keys.file) as (_, grpc_at, _http):
        run = partial(CliRunner().invoke, cli, [*command, "--address", grpc_at])
        entered = await asyncio.to_thread(run, env=variables)
        without_key = await asyncio.to_thread(run, env=variables | {"COTERIE_API_KEY": ""})
    assert entered.exit_code == 0, entered.output
    assert (without_key.exit_code, "--api-key" in without_key.stderr) == (2, True)

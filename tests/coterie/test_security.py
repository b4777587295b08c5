"""What a client shows of itself, to the cluster and to nobody else."""

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from coterie import AsyncClient, Client, ConfigError, InvalidArgumentError
from coterie.cli.main import cli
from coterie.connection import connection_to
from coterie.http_server import HttpServer
from coterie.security import Security, SecurityKeywords, warn_of_plain_text
from tests.builders.authority import Authority
from tests.builders.fake_inference import FakeInference

KEY = "ct-0123456789012345678901234567890123456789012"


def test_the_key_goes_with_every_call_as_a_bearer_token(
    address: str, fake: FakeInference
) -> None:
    with Client(address, api_key=KEY, metadata=[("x-priority", "low")]) as client:
        client.models()
        list(client.generate("abc"))
    sent = [(given["authorization"], given["x-priority"]) for given in fake.metadata]
    assert sent == [(f"Bearer {KEY}", "low")] * 2


def test_a_command_takes_the_key_from_the_environment(
    address: str, fake: FakeInference
) -> None:
    result = CliRunner().invoke(
        cli, ["models", "--address", address], env={"COTERIE_API_KEY": KEY}
    )
    assert result.exit_code == 0, result.output
    assert fake.metadata[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in result.output


def test_a_bench_takes_the_key_and_does_not_write_it_down(
    address: str, fake: FakeInference, tmp_path: Path
) -> None:
    samples = tmp_path / "samples.json"
    arguments = ["--address", address, "--requests", "1", "--output", str(samples), "--json"]
    result = CliRunner().invoke(cli, ["bench", *arguments], env={"COTERIE_API_KEY": KEY})
    assert result.exit_code == 0, result.output
    assert {given["authorization"] for given in fake.metadata} == {f"Bearer {KEY}"}
    assert json.loads(samples.read_text())
    assert KEY not in samples.read_text() + result.output


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_no_text_of_a_client_shows_its_key(cls: type[Client | AsyncClient]) -> None:
    client = cls("localhost:1", api_key=KEY)
    shown = [repr(client), str(vars(client)), repr(Security(api_key=KEY))]
    assert [text for text in shown if KEY in text] == []


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    warn_of_plain_text.cache_clear()
    caplog.set_level(logging.WARNING, "coterie")
    return caplog


def test_a_key_in_plain_text_to_another_machine_is_warned_of_once(
    warnings: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        connection_to("far.example:9000", None, (), Security(api_key=KEY))
    (record,) = warnings.records
    assert "far.example:9000 goes over the network in plain text" in record.getMessage()
    assert KEY not in warnings.text


def test_over_http_it_is_warned_of_as_well(warnings: pytest.LogCaptureFixture) -> None:
    for url in ("http://far.example:8000/v1", "https://far:1/v1", "http://localhost:8000/v1"):
        HttpServer(url, Security(api_key=KEY))
    (record,) = warnings.records
    assert "for far.example goes" in record.getMessage()


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:9000", "[::1]:1", "unix:/run/c"])
def test_on_this_machine_no_one_is_warned(
    address: str, warnings: pytest.LogCaptureFixture
) -> None:
    connection_to(address, None, (), Security(api_key=KEY))
    assert warnings.records == []


def test_with_tls_no_one_is_warned(warnings: pytest.LogCaptureFixture) -> None:
    assert connection_to("far:1", None, (), Security(api_key=KEY, tls=True)).credentials
    assert connection_to("far:1", None, (), Security()).credentials is None
    assert warnings.records == []


@pytest.mark.parametrize("key", ["ct-abc\n", "ct-\u00e9", "ct-\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidArgumentError, match="line break") as failed:
        Client("localhost", api_key=key)
    assert key not in repr(failed.value)


def test_a_file_that_cannot_be_read_is_told_by_its_argument(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca_file: .*none\.pem: No such file"):
        Client("localhost", ca_file=tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"ca_file: .*no\.pem is not in PEM"):
        Client("localhost", ca_file=tmp_path / "no.pem")


def test_half_of_a_client_s_certificate_is_refused(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("client")
    with pytest.raises(InvalidArgumentError, match="or neither"):
        Client("localhost", client_certificate_file=certificate)
    with pytest.raises(InvalidArgumentError, match="or neither"):
        Client("localhost", client_key_file=key)


def test_certificates_beside_ready_made_credentials_are_refused(tmp_path: Path) -> None:
    made = Security(tls=True).credentials()
    with pytest.raises(InvalidArgumentError, match="beside them"):
        Client("localhost", made, ca_file=Authority(tmp_path).file)


def test_a_certificate_and_its_key_go_along_over_http_too(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("client")
    files = {"client_certificate_file": certificate, "client_key_file": key}
    assert Security(**files).ssl_context() is not None  # type: ignore[arg-type]
    assert Security(tls=True).ssl_context() is None


def test_a_key_behind_a_password_is_refused_and_none_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    locked = Security(
        client_certificate_file=pair.certificate, client_key_file=authority.locked(pair.key)
    )
    with pytest.raises(ConfigError, match="without a password"):
        HttpServer("https://far/v1", locked)


@pytest.mark.parametrize("asked", [{"tls": True}, {"ca_file": __file__}])
def test_tls_that_a_url_in_plain_text_would_drop_is_refused(asked: SecurityKeywords) -> None:
    with pytest.raises(InvalidArgumentError, match="begin it with https://"):
        HttpServer("http://localhost:8000/v1", Security(**asked))

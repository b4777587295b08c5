"""A key is in no log, no answer, no error and no output of a command."""

import logging
import traceback
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from coterie import AsyncClient, CoterieError
from coterie.cli.main import cli
from coterie.config import load_config
from deployments.gateway.security.api_keys import new_key
from deployments.gateway.security.key_file import KeyFile
from infra.errors import ConfigError
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.security.conftest import Keys

CONFIG = """
gateway:
  api_keys_file: {file}
models:
  - {{name: tiny, model: smollm2-135m-instruct}}
tenants:
  - name: acme
"""


async def _ask_both_doors(grpc_at: str, http_at: str, key: str) -> str:
    """All that a client with this key is told."""
    told = []
    async with AsyncClient(grpc_at, api_key=key) as client:
        for prompt, model in (("hi", ""), ("hi", "no-such-model"), ("", "")):
            try:
                told.append(str(await client.generate_unary(prompt, model=model, timeout_s=10)))
            except CoterieError as error:
                told.append(f"{error!r} {error.__cause__!r}")
    async with httpx2.AsyncClient(trust_env=False) as http:
        for name in ("authorization", "x-api-key"):
            for path in ("/v1/completions", "/v2/models/tiny/generate", f"/v1/{name}"):
                url = f"http://{http_at}{path}"
                headers = {name: f"Bearer {key}" if name == "authorization" else key}
                answer = await http.post(url, headers=headers, json={"prompt": "hi"})
                told.append(f"{answer.text} {answer.headers}")
    return "\n".join(told)


@pytest.mark.parametrize("kind", ["tenant", "expired", "unknown"])
async def test_neither_logs_nor_answers_show_a_key(
    service: FakeService, keys: Keys, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.DEBUG)
    key = new_key() if kind == "unknown" else keys._asdict()[kind]
    async with opened(service, api_keys_file=keys.file) as (_, grpc_at, http_at):
        told = await _ask_both_doors(grpc_at, http_at, key)
        keys.add("globex")
        KeyFile(keys.file).refresh()
    assert "API key" in told or service.calls
    # Without its first characters, as a log might cut them off.
    assert key[8:] not in told
    assert key[8:] not in caplog.text


def test_an_internal_failure_is_logged_without_the_key(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError) as failed:
        KeyFile(keys.file, ["globex"])
    assert keys.tenant not in repr(failed.value) + caplog.text


def test_a_key_in_the_place_of_its_digest_is_not_told(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeyFile(keys.file)
    keys.file.write_text(f"keys:\n- {{tenant: acme, sha256: {keys.tenant}}}\n")
    file.refresh()
    assert "keys[0].sha256: is not 64 hexadecimal digits" in caplog.text
    assert keys.tenant[8:] not in caplog.text


MISTAKES = (
    "keys: ['{key}']\n",
    "keys: {{{key}: acme}}\n",
    "{key}: acme\n",
    "keys:\n- {{tenant: {key}, sha256: {digest}}}\n",
    "keys:\n- {{tenant: acme, sha256: ['{key}']}}\n",
    "keys:\n- {{tenant: acme, sha256: {digest}, label: {key}}}\n",
    "keys:\n- {{tenant: acme, sha256: {digest}, {key}: 1, {key}: 2}}\n",
)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("tenants", [None, ["acme"]])
def test_a_key_that_an_operator_wrote_into_the_file_is_told_nowhere(
    keys: Keys, caplog: pytest.LogCaptureFixture, mistake: str, tenants: list[str] | None
) -> None:
    file = KeyFile(keys.file) if tenants is None else KeyFile(keys.file, [*tenants, "ops"])
    keys.file.write_text(mistake.format(key=keys.tenant, digest="a" * 64))
    file.refresh()
    with pytest.raises(ConfigError) as failed:
        KeyFile(keys.file, tenants)
    told = "".join(traceback.format_exception(failed.value)) + caplog.text
    assert "the old keys stay" in told
    assert keys.tenant[:24] not in told


@pytest.mark.parametrize("form", ["--show", "--json", "--check"])
def test_the_configuration_is_shown_with_paths_alone(
    keys: Keys, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "coterie.yaml"
    file.write_text(CONFIG.format(file=keys.file))
    result = CliRunner().invoke(cli, ["config", "-f", str(file), form])
    assert result.exit_code == 0, result.output
    digests = keys.file.read_text().split('"')
    shown = result.output + repr(load_config(file))
    assert [word for word in (*keys[1:], *digests) if len(word) >= 40 and word in shown] == []
    assert str(keys.file) in shown

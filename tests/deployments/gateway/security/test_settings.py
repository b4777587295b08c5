"""A gateway that strangers reach asks them who they are, unless told not to."""

from pathlib import Path
from typing import Any

import pytest

from coterie.config import load_config
from infra.errors import ConfigError
from infra.loopback import is_loopback

KEYS = "  api_keys_file: /etc/keys.yaml\n"
OPEN = "  allow_anonymous: true\n"
TLS = "  tls: {certificate_file: a.crt, key_file: a.key"


def load(folder: Path, gateway: str) -> Any:
    file = folder / "coterie.yaml"
    file.write_text(f"gateway:\n{gateway}models:\n- {{name: tiny, model: tiny}}\n")
    return load_config(file).gateway


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "10.0.0.7", "gateway.example"])
def test_an_address_that_others_reach_needs_keys_or_an_explicit_word(
    host: str, tmp_path: Path
) -> None:
    line = f"  host: {host}\n"
    for missing in ("", f"{TLS}}}\n"):
        with pytest.raises(ConfigError, match=r"coterie\.yaml:1: gateway: .*coterie key new"):
            load(tmp_path, line + missing)
    for enough in (KEYS, OPEN, f"{TLS}, client_ca_file: ca.crt}}\n"):
        load(tmp_path, line + enough)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "'::1'", "127.0.0.2"])
def test_on_loopback_nobody_need_be_asked(host: str, tmp_path: Path) -> None:
    assert load(tmp_path, f"  host: {host}\n").api_keys_file is None


def test_keys_and_open_doors_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep one of them"):
        load(tmp_path, KEYS + OPEN)


def test_paths_of_files_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = load(tmp_path, f"  api_keys_file: ~/keys.yaml\n{TLS}}}\n")
    assert section.api_keys_file == Path("~/keys.yaml").expanduser()
    assert section.tls.certificate_file == tmp_path / "a.crt"
    assert type(section).model_validate(section.model_dump(mode="json")) == section


@pytest.mark.parametrize(
    ("host", "expected"),
    [("[::1]", True), ("::1", True), ("0.0.0.0", False), ("", False), ("localhost.x", False)],
)
def test_a_name_counts_as_elsewhere_unless_it_is_localhost(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected

"""`coterie key`: what is printed, and what stands in the file."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie.cli.main import cli
from deployments.gateway.security.api_keys import sha256_of
from deployments.gateway.security.key_file import KeyFile, read_entries

KEY = re.compile(r"ct-[A-Za-z0-9_-]{43}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def coterie_key(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["key", *arguments, "-f", str(file)])


def test_a_new_key_is_printed_once_and_works(file: Path) -> None:
    made = coterie_key(file, "new", "acme", "--label", "batch", "--expires", "2099-01-31")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert KEY.fullmatch(key)
    assert key not in made.stderr
    assert KeyFile(file).ring.grant_of(key, 0.0).tenant == "acme"
    (entry,) = read_entries(file)
    assert (entry.sha256, entry.label, entry.is_operator) == (sha256_of(key), "batch", False)
    assert entry.expires is not None
    assert entry.expires.isoformat() == "2099-01-31T00:00:00+00:00"


def test_the_list_tells_whose_the_keys_are_and_not_what_they_are(file: Path) -> None:
    key = json.loads(coterie_key(file, "new", "acme", "--json").stdout)["key"]
    coterie_key(file, "new", "ops", "--operator", "--expires", "2020-01-01")
    shown = coterie_key(file, "list").stdout
    assert re.search(rf"{sha256_of(key)[:12]} +acme", shown)
    assert re.search(r"ops \(operator\) .*2020-01-01 00:00 \(over\)", shown)
    as_json = coterie_key(file, "list", "--json").stdout
    first, second = map(json.loads, as_json.splitlines())
    assert (first["tenant"], second["is_operator"]) == ("acme", True)
    for text in (shown, as_json):
        assert key not in text
        assert sha256_of(key) not in text


def test_a_revoked_key_is_gone_and_the_others_stay(file: Path) -> None:
    first = json.loads(coterie_key(file, "new", "acme", "--json").stdout)
    second = json.loads(coterie_key(file, "new", "acme", "--json").stdout)
    assert coterie_key(file, "revoke", first["id"]).exit_code == 0
    assert [entry.key_id for entry in read_entries(file)] == [second["id"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "a b"), "tenant: must be text of the form"),
        (("new", "acme", "--expires", "soon"), "write it as 2027-01-31"),
        (("list",), "cannot be read"),
        (("revoke", "4f1c20aa97be"), "no such file"),
    ],
)
def test_a_mistake_ends_with_code_2_and_says_what_to_do(
    file: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = coterie_key(file, *arguments)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert not file.exists()


def test_an_unknown_id_changes_nothing(file: Path) -> None:
    coterie_key(file, "new", "acme")
    before = file.read_bytes()
    result = coterie_key(file, "revoke", "000000000000")
    assert (result.exit_code, file.read_bytes()) == (2, before)

"""`coterie config` from outside."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie.cli.config import config_command
from coterie.cli.main import cli
from coterie.config import CONFIG_VARIABLE, load_config


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    path = tmp_path / "coterie.yaml"
    path.write_text("models:\n  - name: a\n    model: m\n    num_replicas: 2\n")
    return path


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["config", *args])


def test_what_is_shown_is_the_file_with_everything_said(file: Path, tmp_path: Path) -> None:
    shown = run("-f", str(file))
    assert shown.exit_code == 0
    assert (
        "    # Engine replicas to begin with, each a whole copy of the model.\n" in shown.output
    )
    assert "    num_replicas: 2\n" in shown.output
    assert "    tensor_parallel_size: 1  # default\n" in shown.output
    again = tmp_path / "again.yaml"
    again.write_text(shown.output)
    assert load_config(again) == load_config(file)


def test_show_is_what_happens_without_an_option(file: Path) -> None:
    assert run("-f", str(file), "--show").output == run("-f", str(file)).output


def test_json_is_the_same_for_programs(file: Path) -> None:
    shown = json.loads(run("-f", str(file), "--json").output)
    assert shown == load_config(file).model_dump(mode="json")


def test_a_file_that_holds_is_said_to(file: Path) -> None:
    assert run("-f", str(file), "--check").output == f"{file} is valid; it serves a\n"
    assert json.loads(run("-f", str(file), "--check", "--json").output) == {
        "valid": True,
        "source": str(file),
        "models": ["a"],
    }


def test_a_file_that_does_not_hold_ends_with_its_problems_and_status_2(file: Path) -> None:
    file.write_text("models:\n  - name: a\n    modle: m\n")
    ended = run("-f", str(file), "--check")
    assert ended.exit_code == 2
    assert f"{file}:3: models[0].modle: unknown key; did you mean model?" in ended.output


def test_every_option_explains_itself() -> None:
    assert [p.name for p in config_command.params if not getattr(p, "help", None)] == []

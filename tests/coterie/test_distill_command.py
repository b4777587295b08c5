"""`coterie distill`: what is refused at once, and what is printed of a trained draft."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie.cli.main import cli
from deployments.models.distill.workplace import place_of
from tests.deployments.models.carve.tiny_llama import write_tiny_llama


def distill(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["distill", *map(str, arguments)])


def placeholder(directory: Path) -> Path:
    """A directory that a model reference may name; nobody reads the files."""
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (directory / name).write_text("{}")
    return directory


def prompts_file(path: Path, num_prompts: int) -> Path:
    path.write_text("\n".join(f"question {number}" for number in range(num_prompts)))
    return path


def test_the_help_tells_what_is_made_and_what_the_options_are() -> None:
    shown = distill("--help").stdout
    for word in ("speculative", "goes on from", "d2t", "--vocabulary", "--minutes", "--json"):
        assert word in shown


def test_a_hub_id_is_refused_because_its_files_are_not_here(tmp_path: Path) -> None:
    result = distill("owner/name", tmp_path / "out")
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "download the model first" in result.stderr


def test_an_unknown_name_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    result = distill("smollm2-135m", tmp_path / "out")
    assert (result.exit_code, "Did you mean 'smollm2-135m-instruct'?" in result.stderr) == (
        2,
        True,
    )


def test_a_directory_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    prompts = prompts_file(tmp_path / "prompts", 8)
    dense = placeholder(tmp_path / "dense")
    result = distill(dense, tmp_path / "out", "--prompts", prompts)
    assert (result.exit_code, "is there already" in result.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path / "prompts", 7)
    dense = placeholder(tmp_path / "dense")
    result = distill(dense, tmp_path / "out", "--prompts", prompts)
    assert (result.exit_code, "has 7 different prompts" in result.stderr) == (2, True)


@pytest.mark.parametrize("minutes", ["0", "-1", "soon"])
def test_no_time_is_a_mistake(minutes: str, tmp_path: Path) -> None:
    assert distill("x", tmp_path / "out", "--minutes", minutes).exit_code == 2


@pytest.mark.parametrize("is_begun", [False, True])
def test_who_interrupts_is_told_that_the_same_command_goes_on(
    is_begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coterie.cli.distill.distill_into", interrupted)
    if is_begun:
        place = place_of(tmp_path / "out")
        place.mkdir()
        (place / "answers").write_text("some")
    prompts = prompts_file(tmp_path / "prompts", 8)
    dense = placeholder(tmp_path / "dense")
    result = distill(dense, tmp_path / "out", "--prompts", prompts)
    assert result.exit_code != 0
    assert "the same command goes on from here" in result.stderr
    assert ("going on with what was begun" in result.stderr) == is_begun


@pytest.mark.model
@pytest.mark.timeout(300)
def test_the_acceptance_is_a_table_for_people_and_json_for_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.models.distill.acceptance._MAX_PLACES", 16)
    tiny = write_tiny_llama(tmp_path / "tiny", max_position_embeddings=512)
    prompts = prompts_file(tmp_path / "prompts", 12)
    arguments = ("--layers", "1", "--vocabulary", "50", "--minutes", "0.01")
    asked = (*arguments, "--prompts", prompts)
    made = distill(tiny, tmp_path / "one", *asked)
    assert made.exit_code == 0, made.output
    rows = [re.split(r"  +", line.strip()) for line in made.stdout.splitlines()]
    assert rows[0] == [
        "ACCEPTED",
        *(f"TOKEN {number}" for number in (1, 2, 3, 4)),
        "IN A ROW",
        "SAYABLE",
    ]
    assert [row[0] for row in rows[1:]] == ["prompts", "prompts, beginnings"]
    assert "training the draft" in made.stderr
    again = json.loads(distill(tiny, tmp_path / "two", *asked, "--json").stdout)
    assert again == json.loads((tmp_path / "two" / "distill.json").read_text())
    assert again["settings"]["vocabulary"] == 50

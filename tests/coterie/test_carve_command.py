"""`coterie carve`: what is refused at once, and what is printed of a carved model."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie.cli.main import cli
from tests.deployments.models.carve.tiny_llama import write_tiny_llama


def carve(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["carve", *map(str, arguments)])


def placeholder(directory: Path) -> Path:
    """A directory that a model reference may name; nobody reads the files."""
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (directory / name).write_text("{}")
    return directory


def test_the_help_tells_what_is_made_and_what_the_options_are() -> None:
    shown = carve("--help").stdout
    for word in ("Qwen2-MoE", "perplexities", "--active", "--calibration", "--seed"):
        assert word in shown


def test_a_hub_id_is_refused_because_its_files_are_not_here(tmp_path: Path) -> None:
    result = carve("owner/name", tmp_path / "out")
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "download the model first" in result.stderr


def test_an_unknown_name_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    result = carve("smollm2-135m", tmp_path / "out")
    assert (result.exit_code, "Did you mean 'smollm2-135m-instruct'?" in result.stderr) == (
        2,
        True,
    )


def test_a_directory_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    result = carve(placeholder(tmp_path / "dense"), tmp_path / "out")
    assert (result.exit_code, "is there already" in result.stderr) == (2, True)
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_a_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff\x00")
    dense = placeholder(tmp_path / "dense")
    result = carve(dense, tmp_path / "out", "--calibration", tmp_path / "text")
    assert (result.exit_code, "calibration text" in result.stderr) == (2, True)


@pytest.mark.model
@pytest.mark.timeout(300)
def test_the_three_perplexities_are_a_table_for_people_and_json_for_scripts(
    tmp_path: Path,
) -> None:
    dense = write_tiny_llama(tmp_path / "dense")
    text = tmp_path / "text"
    text.write_text("the quick brown fox\n\n" * 30)
    arguments = ("--experts", "4", "--active", "2", "--calibration", text, "--seed", "3")
    made = carve(dense, tmp_path / "one", *arguments)
    assert made.exit_code == 0, made.output
    rows = [re.split(r"  +", line.strip()) for line in made.stdout.splitlines()]
    assert rows[0] == ["PERPLEXITY", "NEURONS"]
    names = [(row[0], row[2]) for row in rows[1:]]
    assert names == [("dense", "24"), ("all 4 experts active", "24"), ("2 of 4 active", "16")]
    again = json.loads(carve(dense, tmp_path / "two", *arguments, "--json").stdout)
    assert again == json.loads((tmp_path / "two" / "carve.json").read_text())
    assert (tmp_path / "one" / "carve.json").read_bytes() == (
        tmp_path / "two" / "carve.json"
    ).read_bytes()
    assert again["settings"]["seed"] == 3
    assert [
        f"{again['perplexity'][kind]:.3f}" for kind in ("dense", "all_active", "carved")
    ] == [row[1] for row in rows[1:]]

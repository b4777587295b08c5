"""`coterie usage` over a directory of records."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie.cli.main import cli
from infra.telemetry.usage_record import encode_record
from tests.infra.telemetry.test_usage import NOV_20_S, record


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    records = [
        record("1", num_prompt_tokens=3000),
        record("2", tenant="b"),
        record("3", ended_s=NOV_20_S),
    ]
    (tmp_path / "usage-x.jsonl").write_bytes(b"".join(map(encode_record, records)))
    return tmp_path


def usage(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["usage", *arguments])


def test_a_table_has_a_row_for_each_group(directory: Path) -> None:
    done = usage("--dir", str(directory))
    assert done.exit_code == 0, done.output
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["tenant", "model", "requests", "prompt", "tokens", "cached", "output", "tokens"],
        ["a", "m", "2", "3,003", "2", "10"],
        ["b", "m", "1", "3", "1", "5"],
    ]


def test_json_has_the_sums_since_a_day(directory: Path) -> None:
    done = usage("--dir", str(directory), "--by", "tenant", "--since", "2026-11-21", "--json")
    sums = {"num_requests": 1, "num_cached_tokens": 1, "num_output_tokens": 5}
    assert json.loads(done.stdout) == [
        {"tenant": "a", "num_prompt_tokens": 3000} | sums,
        {"tenant": "b", "num_prompt_tokens": 3} | sums,
    ]


def test_the_configuration_names_the_directory(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        f"telemetry: {{usage_dir: {directory}}}\nmodels: [{{name: m, model: some/model}}]\n"
    )
    done = usage("-f", str(file), "--by", "model", "--json")
    assert json.loads(done.stdout)[0]["num_requests"] == 3


def test_without_a_directory_it_says_what_to_set() -> None:
    done = usage()
    assert done.exit_code == 2
    assert "telemetry.usage_dir is not set" in done.stderr

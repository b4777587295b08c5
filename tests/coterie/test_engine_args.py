"""`engine_args` of a model: wrong names are told before anything is started."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

from coterie.cli.main import cli
from coterie.config import load_config
from deployments.settings import _OWN_ENGINE_ARGS, EngineArgument
from infra.errors import ConfigError

NAMES = frozenset({"block_size", "max_loras", "seed", "dtype", "tensor_parallel_size"})
TEXT = """
models:
  - name: a
    model: m
    engine_args:
      seed: 1
      max_lora: 2
      dtype: half
  - name: b
    model: m
    max_num_sequences: 4
    engine_args: {tensor_paralel_size: 2, num_replicas: 2, zzz: 1}
"""
PROBLEMS = [
    ":7: models[0].engine_args.max_lora: unknown engine argument; did you mean max_loras?",
    ":8: models[0].engine_args.dtype: set dtype of the model instead",
    ":11: models[1].max_num_sequences: unknown key; did you mean max_num_seqs?",
    ":12: models[1].engine_args.tensor_paralel_size: unknown engine argument; did you mean "
    "tensor_parallel_size? Then set tensor_parallel_size of the model instead",
    ":12: models[1].engine_args.num_replicas: a key of the model itself; put it beside "
    "engine_args",
    ":12: models[1].engine_args.zzz: unknown engine argument; vLLM's AsyncEngineArgs has all "
    "of them",
]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.settings.engine_argument_names", lambda: NAMES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.usefixtures("names")
def test_every_wrong_name_is_told_with_its_line_and_the_right_one(file: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert refused.value.message.splitlines() == [f"{file}{problem}" for problem in PROBLEMS]


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("command", ["config --check", "config --show", "up", "up --json"])
def test_a_command_ends_with_all_problems_before_ray_is_started(
    file: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr("coterie.cli.up._start_ray", started.append)
    ended = CliRunner().invoke(cli, [*command.split(), "-f", str(file)])
    assert (ended.exit_code, started) == (2, [])
    assert [problem for problem in PROBLEMS if problem not in ended.output] == []


def test_without_vllm_only_keys_of_the_model_itself_are_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.settings.engine_argument_names", lambda: None)
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert refused.value.message.splitlines() == [f"{file}{line}" for line in PROBLEMS[1:3]]


@pytest.mark.parametrize("name", sorted(_OWN_ENGINE_ARGS))
def test_an_argument_that_a_key_of_the_model_sets_is_told_that_key(name: str) -> None:
    with pytest.raises(ValueError, match=f"set {_OWN_ENGINE_ARGS[name]} of the model instead"):
        TypeAdapter(EngineArgument).validate_python(name)


def test_names_are_checked_without_importing_vllm_or_torch(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "models: [{name: a, model: m, engine_args: {block_size: 64, max_lora: 2}}]"
    )
    code = (
        "import sys; from pathlib import Path\n"
        "from coterie.config import load_config\n"
        "from infra.errors import ConfigError\n"
        "try: load_config(Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error)\n"
        "print(sorted({'vllm', 'torch', 'ray', 'transformers'} & sys.modules.keys()))"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "c.yaml")]
    answer = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50)
    assert answer.stdout.splitlines() == [
        f"{tmp_path / 'c.yaml'}:1: models[0].engine_args.max_lora: unknown engine argument; "
        "did you mean max_loras?",
        "[]",
    ]

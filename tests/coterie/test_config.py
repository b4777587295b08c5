"""The configuration file as operators meet it."""

from pathlib import Path

import pytest

from coterie.config import BUILT_IN, CONFIG_VARIABLE, Config, config_source, load_config
from deployments.settings import ModelSection
from infra.errors import ConfigError
from infra.section_file import parse_section
from infra.section_text import render_section
from infra.strict_yaml import read_yaml

EXAMPLES = sorted((Path(__file__).parents[2] / "deployments" / "examples").glob("*.yaml"))


@pytest.fixture(autouse=True)
def without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)


def parse(text: str) -> Config:
    return parse_section(Config, read_yaml(text, "f"))


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    return refused.value.message.splitlines()


def test_there_is_an_example_for_each_kind_of_machine() -> None:
    assert [path.name for path in EXAMPLES] == [
        "edge-box.yaml",
        "gpu-cluster.yaml",
        "gpu-node-tensor-parallel.yaml",
        "kubernetes.yaml",
        "laptop-cpu.yaml",
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_holds_and_reads_back_from_what_is_shown(path: Path) -> None:
    config = load_config(path)
    assert parse(render_section(config)) == config


def test_without_a_file_the_laptop_example_is_in_effect() -> None:
    (built_in,) = (path for path in EXAMPLES if path.name == BUILT_IN)
    assert load_config(None) == load_config(built_in)
    assert config_source(None) == "the built-in configuration"


def test_the_environment_names_the_file_where_the_command_line_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named, given = tmp_path / "named.yaml", tmp_path / "given.yaml"
    for path in (named, given):
        path.write_text(f"models: [{{name: {path.stem}, model: m}}]")
    monkeypatch.setenv(CONFIG_VARIABLE, str(named))
    assert [load_config(path).models[0].name for path in (None, given)] == ["named", "given"]
    assert config_source(None) == str(named)


def test_the_cluster_example_merges_its_anchor() -> None:
    config = load_config(next(path for path in EXAMPLES if path.name == "gpu-cluster.yaml"))
    gpus = {model.name: model.num_replicas * model.num_ranks for model in config.models}
    assert gpus == {"deepseek-v3": 16, "qwen3-32b": 6, "llama-3.1-8b": 2}
    assert config.models[2].max_num_seqs == 256
    assert sorted(config.models[2].adapters) == ["sql-writer", "support-agent"]


def test_a_misspelt_key_is_told_with_its_line_and_the_nearest_one() -> None:
    text = "models:\n  - name: a\n    model: m\n    tensor_paralel_size: 2\n"
    assert refusal(text) == [
        "f:4: models[0].tensor_paralel_size: unknown key; did you mean tensor_parallel_size?"
    ]


def test_an_engine_argument_in_the_wrong_place_is_told_the_right_one() -> None:
    (problem,) = refusal("models: [{name: a, model: m, max_loras: 2}]")
    assert problem.endswith("goes under engine_args")


def test_names_of_models_and_adapters_are_told_apart() -> None:
    text = """
models:
  - {name: a, model: m}
  - {name: b, model: m, adapters: {a: /x, c: /y}}
  - {name: c, model: m}
"""
    assert refusal(text) == [
        "f:2: models: more than one model or adapter is named a, c; "
        "clients choose by name, so give each its own"
    ]


def test_both_doors_on_one_port_are_refused_beside_other_problems() -> None:
    assert refusal("gateway:\n  http_port: 9000\nmodels: []\n") == [
        "f:1: gateway: grpc_port and http_port are both 9000; give each its own",
        "f:3: models: must be a list of at least 1, not []",
    ]


def test_a_file_without_models_is_refused() -> None:
    (problem,) = refusal("cluster: {address: auto}")
    assert problem.startswith("f:1: models: missing; it must be given")


def test_every_key_is_documented() -> None:
    sections = [Config, ModelSection] + [
        field.annotation for field in Config.model_fields.values() if field.annotation
    ]
    undocumented = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in getattr(section, "model_fields", {}).items()
        if not field.description
    ]
    assert undocumented == []

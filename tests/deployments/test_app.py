"""What is replaced when the application is deployed again: Serve goes by the versions."""

from pathlib import Path
from typing import Any

import pytest

from deployments import app, metadata_server
from deployments.app import build

MODELS = [{"name": "a", "model": "some/model"}, {"name": "b", "model": "some/other"}]


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_server, "find", lambda _: None)


def versions(state_dir: Path, **sections: Any) -> dict[str, str | None]:
    """Of each deployment; None where Serve always replaces it."""
    cluster = {"state_dir": str(state_dir)}
    built = build({"models": MODELS, "cluster": cluster} | sections)
    gateway = built._bound_deployment
    engines = gateway.init_args[2].values()
    found = [gateway, *(engine._bound_deployment for engine in engines)]
    return {deployment.name: deployment.version for deployment in found}


def test_gateways_are_always_replaced_and_engines_of_the_same_configuration_stay(
    tmp_path: Path,
) -> None:
    before = versions(tmp_path)
    assert before["gateway"] is None
    assert before["engine-a"] not in (None, before["engine-b"])
    assert versions(tmp_path) == before
    assert versions(tmp_path, router={"policy": "prefix"}, tenants=[{"name": "t"}]) == before


def test_only_the_engines_of_the_model_that_changes_are_replaced(tmp_path: Path) -> None:
    before = versions(tmp_path)
    changed = versions(tmp_path, models=[MODELS[0], MODELS[1] | {"max_num_seqs": 8}])
    assert changed["engine-a"] == before["engine-a"]
    assert changed["engine-b"] != before["engine-b"]


def test_more_replicas_do_not_replace_those_that_run(tmp_path: Path) -> None:
    gpus = [model | {"device": "cuda"} for model in MODELS]
    more = [model | {"num_replicas": 4} for model in gpus]
    assert versions(tmp_path, models=more) == versions(tmp_path, models=gpus)


def test_engines_on_cpus_share_out_their_cores_anew_where_there_are_more(
    tmp_path: Path,
) -> None:
    more = [MODELS[0], MODELS[1] | {"num_replicas": 4}]
    before, after = versions(tmp_path), versions(tmp_path, models=more)
    assert before["engine-a"] != after["engine-a"]


def test_engines_are_replaced_by_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(tmp_path)
    monkeypatch.setattr(app, "code_version", lambda: "other")
    assert versions(tmp_path)["engine-a"] != before["engine-a"]

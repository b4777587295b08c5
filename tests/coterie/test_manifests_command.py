"""`coterie manifests` from outside."""

import json
from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from coterie.cli.main import cli

CONFIG = """\
gateway:
  host: 0.0.0.0
  allow_anonymous: true
models:
  - name: small
    model: smollm2-135m-instruct
    device: cpu
kubernetes:
  image: coterie:test
"""
FILES = [
    "base/dashboards.yaml",
    "base/disruption-budgets.yaml",
    "base/head-store.yaml",
    "base/index-store.yaml",
    "base/kustomization.yaml",
    "base/monitors.yaml",
    "base/network-policies.yaml",
    "base/rayservice.yaml",
    "base/services.yaml",
    "overlays/dev/kustomization.yaml",
    "overlays/gpu/kustomization.yaml",
]


def run(tmp_path: Path, config: str, *args: str) -> Result:
    file = tmp_path / "coterie.yaml"
    file.write_text(config)
    output = tmp_path / "deploy"
    return CliRunner().invoke(cli, ["manifests", "-f", str(file), "-o", str(output), *args])


def test_files_are_written_and_the_next_commands_named(tmp_path: Path) -> None:
    done = run(tmp_path, CONFIG)
    assert done.exit_code == 0
    folder = tmp_path / "deploy"
    written = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    assert sorted(written) == FILES
    said = " ".join(done.stderr.split())
    assert "engine-small: 1 to 1 pods of 4 CPUs, 16Gi" in said
    assert "coterie-link: token" in said
    assert f"kubectl apply --server-side -k {folder}/base" in said
    service = yaml.safe_load((folder / "base" / "rayservice.yaml").read_text())
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["image"] == "coterie:test"


def test_the_same_configuration_gives_the_same_files(tmp_path: Path) -> None:
    run(tmp_path, CONFIG)
    folder = tmp_path / "deploy"
    before = {path: path.read_text() for path in folder.rglob("*.yaml")}
    assert run(tmp_path, CONFIG).exit_code == 0
    assert {path: path.read_text() for path in folder.rglob("*.yaml")} == before


def test_json_says_what_there_is(tmp_path: Path) -> None:
    said = json.loads(run(tmp_path, CONFIG, "--json").stdout)
    assert said["files"] == FILES
    assert said["groups"] == {"gateway": [1, 1], "engine-small": [1, 1]}
    assert said["secrets"]["coterie-ray-token"] == ["auth_token"]


def test_what_cannot_run_in_pods_writes_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, CONFIG.replace("device: cpu", "device: auto"))
    assert ended.exit_code == 2
    assert "models.small: device is auto" in ended.stderr
    assert not (tmp_path / "deploy").exists()

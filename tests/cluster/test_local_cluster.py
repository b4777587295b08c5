"""The Ray cluster that `coterie up` starts, without anything deployed."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from deployments import local_cluster
from deployments.settings import ClusterSection

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.mark.parametrize("is_cleaned", [True, False])
def test_a_cluster_without_serve_or_without_its_temporary_files_can_still_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cleaned: bool
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # put back afterwards
    section = ClusterSection.model_validate({"state_dir": str(tmp_path), "app_name": "cleaned"})
    local_cluster.use_auth_token(section)
    cluster = local_cluster.start(section)
    leader = psutil.Process(cluster.pid)
    members = [leader, *leader.children(recursive=True)]
    if is_cleaned:
        shutil.rmtree(cluster.temp_dir)
    file = tmp_path / "cleaned.yaml"
    config = {
        "cluster": {"app_name": "cleaned", "state_dir": str(tmp_path)},
        "models": [{"name": "m", "model": "smollm2-135m-instruct"}],
    }
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "coterie.cli.main", "down", "-f", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()[-7:]) == (0, "stopped")
    _, left = psutil.wait_procs(members, timeout=5)
    assert not left
    assert local_cluster.find(section) is None

"""The Ray cluster that `coterie up` starts, without anything deployed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGINT

import psutil
import pytest
import yaml

from deployments import local_cluster
from deployments.settings import ClusterSection

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


START = """
import sys
from pathlib import Path
from deployments import local_cluster
from deployments.settings import ClusterSection

section = ClusterSection(state_dir=Path(sys.argv[1]), app_name="interrupted")
local_cluster.use_auth_token(section)
local_cluster.start(section)
"""


def test_ctrl_c_while_ray_starts_leaves_nothing_of_it(tmp_path: Path) -> None:
    starting = subprocess.Popen(
        [sys.executable, "-c", START, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    section = ClusterSection(state_dir=tmp_path, app_name="interrupted")
    cluster = None
    members: list[psutil.Process] = []
    while len(members) < 3:
        assert starting.poll() is None
        cluster = cluster or local_cluster.find(section)
        if cluster is not None:
            leader = psutil.Process(cluster.pid)
            members = [leader, *leader.children(recursive=True)]
        time.sleep(0.01)
    starting.send_signal(SIGINT)
    starting.wait(30)
    assert cluster is not None
    assert local_cluster.find(section) is None
    assert not Path(cluster.temp_dir).exists()
    time.sleep(2)  # what was being started as it ended would be there by then
    assert not [p for p in psutil.process_iter() if cluster.temp_dir in _command_line(p)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
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

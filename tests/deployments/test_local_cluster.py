"""The record and the end of a local cluster, with sleeping processes in Ray's place."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments import local_cluster
from deployments.local_cluster import find, start
from deployments.settings import ClusterSection
from infra.errors import ConfigError

LEADER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("has a child", flush=True)
time.sleep(60)
"""


class Started:
    """What stands for `ray start`: a leader with a child, and what was told of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.members: list[psutil.Process] = []
        self.temp_dir = Path()
        monkeypatch.setattr(local_cluster, "_spawn", self.spawn)

    def spawn(self, section: ClusterSection, temp_dir: str, *_: Any) -> "subprocess.Popen[str]":
        leader = subprocess.Popen(
            [sys.executable, "-c", LEADER],
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert leader.stdout is not None
        assert leader.stdout.readline() == "has a child\n"
        leader.stdout.close()
        process = psutil.Process(leader.pid)
        self.members = [process, *process.children()]
        self.temp_dir = Path(temp_dir)
        return leader

    def check_nothing_left(self) -> None:
        _, left = psutil.wait_procs(self.members, timeout=5)
        for process in left:
            process.kill()
        assert not left
        assert not self.temp_dir.exists()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


@pytest.fixture
def section(tmp_path: Path) -> ClusterSection:
    return ClusterSection.model_validate({"state_dir": str(tmp_path), "app_name": "a"})


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError("no space left")])
def test_a_start_that_is_interrupted_leaves_no_process_no_file_and_no_record(
    monkeypatch: pytest.MonkeyPatch,
    started: Started,
    section: ClusterSection,
    fault: BaseException,
) -> None:
    def interrupted(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(local_cluster, "_wait_started", interrupted)
    try:
        with pytest.raises(type(fault)):
            start(section)
    finally:
        started.check_nothing_left()
    assert find(section) is None
    assert not list(section.state_dir.glob("*cluster-a.json*"))


def test_a_cluster_can_be_found_and_ended_before_it_has_come_up(
    monkeypatch: pytest.MonkeyPatch, started: Started, section: ClusterSection
) -> None:
    found = []
    monkeypatch.setattr(local_cluster, "_wait_started", lambda *_: found.append(find(section)))
    cluster = start(section)
    cluster.stop()
    started.check_nothing_left()
    assert found == [cluster]


@pytest.mark.parametrize("text", ['{"pid": 1', "", "[1]", '{"pid": 1}'])
def test_a_record_that_cannot_be_read_says_what_to_do(
    section: ClusterSection, text: str
) -> None:
    path = section.state_dir / "cluster-a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"{path} is no record of a cluster"):
        find(section)

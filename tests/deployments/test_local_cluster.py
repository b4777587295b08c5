"""The record and the end of a local cluster, with sleeping processes in Ray's place."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments import local_cluster
from deployments.local_cluster import find, free_ports, start
from deployments.settings import ClusterSection
from infra.errors import ConfigError

LEADER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("has a child", flush=True)
time.sleep(60)
"""


ENDS_AFTER_ALL = """
print("\\x1b[32mRay runtime started.\\x1b[39m", flush=True)
import time
time.sleep(0.5)
print("----- BEGIN ray_client_server.err tail (exit code(s)=1) -----")
print("Traceback (most recent call last):")
print("RuntimeError: Failed to bind to address 127.0.0.1:28881; \\x1b[1mset it\\x1b[0m")
print("free")
print("ERR scripts.py:128 -- ----- END ray_client_server.err tail (exit code(s)=1) -----")
print("Remaining processes will be killed.")
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


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (
            ENDS_AFTER_ALL,
            "RuntimeError: Failed to bind to address 127.0.0.1:28881; set it free",
        ),
        ("print('Usage: ray'); print('Error: No such option')", "Error: No such option"),
        ("", "it said nothing"),
    ],
)
def test_where_ray_ends_as_it_starts_it_is_told_what_ray_said(
    monkeypatch: pytest.MonkeyPatch, section: ClusterSection, program: str, told: str
) -> None:
    def spawn(section: ClusterSection, temp_dir: str, ports: Any, log: Any, *_: Any) -> Any:
        return subprocess.Popen([sys.executable, "-c", program], stdout=log, text=True)

    monkeypatch.setattr(local_cluster, "_spawn", spawn)
    with pytest.raises(ConfigError) as raised:
        start(section)
    log = section.state_dir / "ray-a.log"
    assert str(raised.value) == (f"Ray did not start: {told}\nAll of its messages are in {log}")
    assert find(section) is None


@pytest.mark.parametrize(
    ("outgoing", "end"),
    [
        ("32768\t60999\n", 32_768),
        ("21000 65535", 21_000),
        ("1024 65535", 21_000),
        (None, 32_768),
    ],
)
def test_ports_are_not_of_those_that_outgoing_connections_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outgoing: str | None, end: int
) -> None:
    file = tmp_path / "ip_local_port_range"
    if outgoing is not None:
        file.write_text(outgoing)
    monkeypatch.setattr(local_cluster, "_OUTGOING_PORTS", file)
    ports = free_ports(300)
    assert len(set(ports)) == 300
    assert 20_000 <= min(ports) <= 20_500
    assert end - 500 <= max(ports) < end


def test_ports_that_are_taken_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free, other = free_ports(3)
    monkeypatch.setattr(local_cluster, "_server_ports", lambda: [taken, free, other])
    with socket.create_server(("127.0.0.1", taken)):
        assert sorted(free_ports(2)) == sorted([free, other])

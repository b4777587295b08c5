"""The temporary things of one engine replica, and those that dead ones left.

vLLM's processes talk over sockets and files in the temporary directory and
over shared memory, and leave some of both behind, above all where they are
killed: a message queue between ranks is up to 160 MB of the machine's memory.
So each replica has a folder of its own for the first, with a list of the
second in it. Whoever holds the folder's lock is alive; `sweep` clears up after
those that are not. The cores that its ranks are bound to stand there as well, for
the machine's other replicas.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import psutil

log = logging.getLogger(__name__)

_PREFIX = "coterie-engine-"
_LOCK = "lock"
_LIST = "shared-memory"
_CORES = "cores"
_SHARED_MEMORY = Path("/dev/shm")


class Scratch:
    """A folder that is this process's until it ends; see the module's docstring."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def claim(cls, parent: Path | None = None) -> Self:
        """A new folder in `parent` (default: the temporary directory), after a `sweep`."""
        parent = parent or Path(tempfile.gettempdir())
        sweep(parent)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Under the name that `sweep` looks for it is never seen unlocked.
        lock = os.open(path / "new-lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (path / "new-lock").rename(path / _LOCK)
        return cls(path, lock)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which this process and its children put their things here."""
        return {"TMPDIR": str(self.path), "VLLM_RPC_BASE_PATH": str(self.path)}

    def note_shared_memory(self, processes: Iterable[psutil.Process]) -> None:
        """Remember the shared memory that these processes have mapped."""
        names = sorted({name for process in processes for name in shared_memory_names(process)})
        (self.path / _LIST).write_text("\n".join(names))

    def claim_cores(
        self, choose: Callable[[Mapping[int, int]], list[list[int]]]
    ) -> list[list[int]]:
        """Cores for this process's ranks, which count as bound to them until `free_cores`.

        `choose` gets the number of living ranks that are bound to each core; no other
        replica of this user chooses meanwhile. Shape of its result: [num_ranks, num_cores].
        """
        parent = self.path.parent
        with _choosing_alone(parent):
            sweep(parent)
            chosen = choose(_num_bound(parent))
            cores = [str(core) for run in chosen for core in run]
            (self.path / _CORES).write_text(" ".join(cores))
        return chosen

    def free_cores(self) -> None:
        """Let others have the cores: what runs on here gives way to what comes."""
        (self.path / _CORES).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, and the shared memory that is noted in it."""
        with contextlib.suppress(FileNotFoundError):
            for name in (self.path / _LIST).read_text().split():
                (_SHARED_MEMORY / Path(name).name).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def shared_memory_names(process: psutil.Process) -> Iterable[str]:
    """Names of the shared memory that a process has mapped; none if it is gone."""
    with contextlib.suppress(psutil.Error):
        for region in process.memory_maps(grouped=True):
            path = Path(region.path)
            if path.parent == _SHARED_MEMORY:
                yield path.name


def _num_bound(parent: Path) -> Counter[int]:
    """Ranks that are bound to each core, by what the folders of this user say."""
    found: Counter[int] = Counter()
    for path in parent.glob(f"{_PREFIX}*"):
        # Others' folders are not believed; one that is being made or removed says nothing.
        with contextlib.suppress(OSError, ValueError):
            if path.lstat().st_uid == os.getuid():
                found.update(map(int, (path / _CORES).read_text().split()))
    return found


@contextlib.contextmanager
def _choosing_alone(parent: Path) -> Iterator[None]:
    """Keep this user's other processes from choosing cores until the block ends."""
    path = parent / f"coterie-cores-{os.getuid()}.lock"
    with contextlib.ExitStack() as stack:
        # Another user may have put something there; at worst two replicas share a core.
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, lock)
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(parent: Path | None = None) -> None:
    """Remove what the dead replicas of this machine and user have left in `parent`."""
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        lock = _locked(path)
        if lock is not None:
            log.info("clearing up after a dead engine replica: %s", path)
            Scratch(path, lock).remove()


def _locked(path: Path) -> int | None:
    """The folder's lock, as a file descriptor; None if another holds it.

    Anyone may put a folder into a temporary directory that all share, and its list would
    have us remove the memory of living replicas: so folder and lock must be this user's.
    """
    try:
        # No link: what it leads to may be changed for another folder's.
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        # Not quite made yet, or another user's.
        return None
    try:
        if _is_ours(path, lock):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
    except OSError:
        # Held by another, or gone by now.
        pass
    os.close(lock)
    return None


def _is_ours(path: Path, lock: int) -> bool:
    folder = path.lstat()
    owners = {folder.st_uid, os.fstat(lock).st_uid}
    return stat.S_ISDIR(folder.st_mode) and owners == {os.getuid()}

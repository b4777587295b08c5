"""A replica's temporary folder: who may clear it up, and what goes with it."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from deployments.engine.scratch import Scratch, sweep


def test_a_living_replicas_folder_is_left_alone(tmp_path: Path) -> None:
    first = Scratch.claim(tmp_path)
    second = Scratch.claim(tmp_path)
    assert first.path.is_dir()
    assert second.path.is_dir()
    second.remove()
    first.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_replica_left_is_removed_with_its_shared_memory(tmp_path: Path) -> None:
    program = """
import os, sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
import psutil
from deployments.engine.scratch import Scratch

scratch = Scratch.claim(Path(sys.argv[1]))
memory = SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")
scratch.note_shared_memory([psutil.Process()])
print(memory.name, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    name = done.stdout.strip()
    assert done.returncode == -9
    assert Path("/dev/shm", name).exists()
    sweep(tmp_path)
    assert not Path("/dev/shm", name).exists()
    assert list(tmp_path.iterdir()) == []


def test_cores_count_as_taken_until_they_are_freed_or_their_replica_is_dead(
    tmp_path: Path,
) -> None:
    seen: list[dict[int, int]] = []

    def choose(num_bound: Mapping[int, int]) -> list[list[int]]:
        seen.append(dict(num_bound))
        return [[1, 2], [3]]

    first, second, third = (Scratch.claim(tmp_path) for _ in range(3))
    assert first.claim_cores(choose) == [[1, 2], [3]]
    second.claim_cores(choose)
    first.free_cores()
    third.claim_cores(choose)
    second.remove()
    os.close(third._lock)  # as its process's end does
    first.claim_cores(choose)
    first.remove()
    assert seen == [{}, {1: 1, 2: 1, 3: 1}, {1: 1, 2: 1, 3: 1}, {}]


def test_replicas_that_start_at_once_choose_one_after_the_other(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from deployments.engine.scratch import Scratch

def choose(num_bound):
    time.sleep(0.1)  # time enough for all to read the same
    return [[max(num_bound, default=-1) + 1]]

print(Scratch.claim(Path(sys.argv[1])).claim_cores(choose)[0][0], flush=True)
sys.stdin.read()
"""
    argv = [sys.executable, "-c", program, str(tmp_path)]
    started = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    chosen = {int(one.stdout.readline()) for one in started if one.stdout}
    for one in started:
        one.communicate("")
    assert chosen == {0, 1, 2, 3}


def test_cores_are_chosen_where_another_user_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch.claim(tmp_path)
    with (tmp_path / f"coterie-cores-{os.getuid() + 1}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
        assert scratch.claim_cores(lambda _: [[0]]) == [[0]]
        monkeypatch.undo()
    scratch.remove()


def test_memory_that_was_not_noted_stays(tmp_path: Path) -> None:
    scratch = Scratch.claim(tmp_path)
    scratch.note_shared_memory([psutil.Process()])
    memory = SharedMemory(create=True, size=4096)
    try:
        scratch.remove()
        assert Path("/dev/shm", memory.name).exists()
    finally:
        memory.close()
        memory.unlink()


def test_a_folder_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "coterie-engine-new").mkdir()
    sweep(tmp_path)
    assert (tmp_path / "coterie-engine-new").is_dir()


def test_the_environment_leads_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch.claim(tmp_path)
    for name, value in scratch.environment.items():
        monkeypatch.setenv(name, value)
    made = subprocess.run(
        [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(made.stdout.strip()).parent == scratch.path
    scratch.remove()


def test_what_another_user_made_is_left_alone_with_the_memory_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = _abandoned(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getuid", lambda: os.geteuid() + 1)
        sweep(tmp_path)
    try:
        assert Path("/dev/shm", memory.name).exists()
    finally:
        memory.close()
        sweep(tmp_path)
    assert not Path("/dev/shm", memory.name).exists()


@pytest.mark.parametrize("linked", ["lock", ""])
def test_a_link_to_a_folder_or_to_a_lock_is_not_followed(tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "lock").touch()
    folder = tmp_path / "coterie-engine-trap"
    if linked:
        folder.mkdir()
    (folder / linked).symlink_to(outside / linked)
    sweep(tmp_path)
    assert (folder / linked).is_symlink()
    assert (outside / "lock").exists()


def _abandoned(parent: Path) -> SharedMemory:
    """Memory that the folder of a dead replica names."""
    memory = SharedMemory(create=True, size=4096)
    resource_tracker.unregister(f"/{memory.name}", "shared_memory")
    folder = parent / "coterie-engine-dead"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "shared-memory").write_text(memory.name)
    return memory

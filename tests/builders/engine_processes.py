"""The processes of an engine replica: its engine core, and the core's workers.

They are found by how they were made, not by their title: setproctitle cannot give
one to a process whose first environment variable was set anew (vLLM sets some as it
is imported), and raylets hand variables on in a random order.
"""

import psutil

_SPAWNED = "multiprocessing.spawn"
_TITLE = "VLLM::"


def spawned_by(process: psutil.Process) -> list[psutil.Process]:
    """The processes that this one made to work with, oldest first."""
    found = []
    for child in process.children():
        try:
            command = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        if command.startswith(_TITLE) or _SPAWNED in command:
            found.append(child)
    return sorted(found, key=psutil.Process.create_time)


def engine_core_of(replica_pid: int) -> psutil.Process:
    """The one engine core of a replica."""
    (core,) = spawned_by(psutil.Process(replica_pid))
    return core

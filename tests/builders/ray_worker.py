"""A Ray node beside the head, on the same machine: started as KubeRay's pods are."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from deployments.local_cluster import free_ports

_START_S = 60.0
_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
# $0 is the folder, and what follows becomes the command.
_OWN_FOLDER = 'mount -t tmpfs -o mode=700 tmpfs "$0" && exec "$@"'


def start_worker(
    address: str,
    resources: Mapping[str, float],
    log: Path,
    *,
    object_store_bytes: int,
    drain_s: float,
    environment: Mapping[str, str] | None = None,
    own_folder: Path | None = None,
) -> "subprocess.Popen[bytes]":
    """By `ray start --block`, with these resources and no CPU. Returns when Ray runs there.

    Only one may start at a time: two take each other's sockets. What processes of the node put
    into `own_folder`, their temporary directory then, no other node sees, as between pods.
    """
    agent, agent_grpc, metrics = free_ports(3)
    flags = {
        "address": address,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 0,
        "resources": json.dumps(dict(resources)),
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "metrics-export-port": metrics,
        "object-store-memory": object_store_bytes,
    }
    variables = {
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_niceness": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_s),
    }
    variables |= dict(environment or {})
    within: list[str] = []
    if own_folder is not None:
        variables["TMPDIR"] = str(own_folder)
        within = ["unshare", "--mount", "sh", "-c", _OWN_FOLDER, str(own_folder)]
    return start_ray(flags, log, environment=variables, within=within)


def start_ray(
    flags: Mapping[str, object],
    log: Path,
    *more: str,
    environment: Mapping[str, str],
    within: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    """`ray start --block`, of a worker or (with `--head` among `more`) of a head. Returns when
    Ray runs there; where it does not, nothing of it is left. `within` becomes the command that
    follows it."""
    command = [*within, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += ["--disable-usage-stats", *more]
    with log.open("wb") as out:
        leader = subprocess.Popen(
            command + [f"--{key}={value}" for key, value in flags.items()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment),
            # Of its own, so that Ctrl-C is the test's alone; not a session, whose processes
            # Linux schedules as one (`sched_autogroup`): of two sessions on one core, an engine
            # that is busy in one has kept one that starts in the other from running at all.
            process_group=0,
        )
    deadline = time.monotonic() + _START_S
    while "Ray runtime started" not in log.read_text():
        if leader.poll() is not None or time.monotonic() > deadline:
            kill_worker(leader.pid)
            raise AssertionError(log.read_text())
        time.sleep(0.1)
    return leader


def kill_worker(pid: int) -> None:
    """With all that runs on the node, at once: the machine is gone."""
    try:
        leader = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    leader.suspend()
    members = [*leader.children(recursive=True), leader]
    for process in members:
        process.kill()
    psutil.wait_procs(members, timeout=10)


def warn_of_sessions() -> None:
    """Where several nodes are to be busy on few cores, and Linux may keep one from running."""
    if _AUTOGROUP.exists() and _AUTOGROUP.read_text().strip() == "1":
        print(
            "Linux schedules sessions as groups here: beside busy nodes Ray's head, or an "
            "engine that starts, may get no time; `sysctl -w kernel.sched_autogroup_enabled=0` "
            "ends that",
            file=sys.stderr,
        )

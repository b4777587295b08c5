"""A real cluster for the time of a test: Ray, Serve, gateway, engines, by `coterie up`."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from deployments.engine.scratch import shared_memory_names
from deployments.local_cluster import free_ports

STATE_DIR = Path(os.environ.get("COTERIE_STATE_DIR", "~/.cache/coterie")).expanduser()
"""Shared by all runs, so that models are converted once a machine."""


class RunningCluster:
    """Started on entering, ended on leaving; then nothing of it may be left.

    `sections` are merged into a configuration with free ports on loopback.
    """

    def __init__(self, folder: Path, name: str, **sections: Any) -> None:
        grpc_port, http_port = free_ports(2)
        self.address = f"127.0.0.1:{grpc_port}"
        self.http_url = f"http://127.0.0.1:{http_port}"
        self.file = folder / f"{name}.yaml"
        gateway = {"grpc_port": grpc_port, "http_port": http_port, "drain_timeout_s": 5}
        self._config = {
            "cluster": {"app_name": name, "state_dir": str(STATE_DIR)},
            "gateway": gateway | sections.pop("gateway", {}),
            **sections,
        }
        self.up: dict[str, Any] = {}
        self._watch: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.change()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        members = self.processes()
        memory = {name for process in members for name in shared_memory_names(process)}
        self._down()
        _, left = psutil.wait_procs(members, timeout=10)
        for process in left:
            process.kill()
        if error is None:
            assert not left, f"processes outlived the cluster: {left}"
            left_memory = [name for name in memory if Path("/dev/shm", name).exists()]
            assert not left_memory, f"shared memory outlived the cluster: {left_memory}"

    def change(self, **sections: Any) -> None:
        """Give these sections new values, and wait until they are in effect."""
        self._config |= sections
        self.file.write_text(yaml.safe_dump(self._config))
        self.up = json.loads(self.coterie("up", "-f", str(self.file), "--json"))

    def section(self, name: str) -> Any:
        """Of its configuration, as it is now."""
        return self._config[name]

    def status(self) -> dict[str, dict[str, Any]]:
        """What `coterie status --json` says, by deployment; see `status_program`."""
        return {state["name"]: state for state in self._ask("")}

    def is_whole(self, gone: Set[int] = frozenset()) -> bool:
        """All replicas run and answer, and none whose process id is of `gone`; gateways have
        links to all engines and follow their index, engines to all expert hosts and to a draft
        replica, and each expert has its copies."""
        states = self.status()
        if gone & {each["pid"] for state in states.values() for each in state["details"]}:
            return False
        return all(
            len(state["details"]) == state["num_running"] == state["num_wanted"]
            and _is_linked(name, states)
            for name, state in states.items()
        )

    def explain(self, request_id: str) -> list[dict[str, Any]]:
        """What `coterie explain --json` says, in the same way."""
        return self._ask(request_id)

    def _ask(self, line: str) -> list[dict[str, Any]]:
        if self._watch is None:
            self._watch = subprocess.Popen(
                [sys.executable, "-m", "tests.builders.status_program", str(self.file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        assert self._watch.stdin is not None and self._watch.stdout is not None
        self._watch.stdin.write(f"{line}\n")
        answer = self._watch.stdout.readline()
        assert answer, f"the status program has ended, with {self._watch.wait()}"
        found: list[dict[str, Any]] = json.loads(answer)
        return found

    def _down(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.kill()
            watch.communicate()
        self.coterie("down", "-f", str(self.file), "--json")

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster."""
        record = STATE_DIR / f"cluster-{self.file.stem}.json"
        leaders = [psutil.Process(json.loads(record.read_text())["pid"])]
        keeper = STATE_DIR / f"metadata-{self.file.stem}.json"
        if keeper.exists():
            leaders.append(psutil.Process(json.loads(keeper.read_text())["pid"]))
        return [p for leader in leaders for p in (leader, *leader.children(recursive=True))]

    def coterie(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a `coterie` command to its end; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "coterie.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            env=os.environ | {"COTERIE_ADDRESS": self.address} | dict(environment or {}),
            check=False,
        )
        assert done.returncode == 0, f"coterie {' '.join(arguments)}: {done.stderr}"
        return done.stdout


def _is_linked(name: str, states: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the replicas of a deployment and those that they serve have all that they share;
    see `is_whole`."""
    kind, _, model = name.partition("-")
    replicas, gateways = states[name]["details"], states["gateway"]["details"]
    num_engines = states[f"engine-{model}"]["num_wanted"] if model else 0
    if kind == "engine":
        return all(
            gateway["num_ready_replicas"].get(model) == num_engines
            and gateway["prefix_index"].get(model, {}).get("state") == "current"
            for gateway in gateways
        )
    if kind == "experts":
        return all(host["num_engines"] >= num_engines for host in replicas)
    if kind == "drafts":
        num_linked: int = sum(draft["num_engines"] for draft in replicas)
        return num_linked >= num_engines
    if kind == "director":
        return all(each["experts"]["state"] == "settled" for each in replicas)
    return True

"""What befalls a cluster: to whom, how, and for how long."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of, spawned_by

Victim = Callable[[RunningCluster], psutil.Process]


@dataclass(frozen=True)
class Event:
    """One failure of one process."""

    kind: str
    how: str
    """`kill`: it is gone at once. `stop`: it hangs, for `for_s`. `slow`: it hangs half of the
    time, for `for_s`."""
    victim: Victim
    for_s: float = 0.0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind}, {self.how}"


def strike(event: Event, process: psutil.Process) -> Iterator[float]:
    """Do it; gives how long to wait before it goes on."""
    if event.how == "kill":
        process.kill()
        return
    burst_s = 0.25 if event.how == "slow" else event.for_s
    passed_s = 0.0
    try:
        while passed_s < event.for_s:
            process.send_signal(signal.SIGSTOP)
            yield burst_s
            process.send_signal(signal.SIGCONT)
            passed_s += burst_s
            if event.how == "slow":
                yield burst_s
                passed_s += burst_s
    except psutil.NoSuchProcess:
        return  # somebody has noticed, and ended it


def replica_of(deployment: str) -> Victim:
    """The first replica of a Serve deployment."""
    return lambda cluster: psutil.Process(cluster.status()[deployment]["details"][0]["pid"])


def core_of(deployment: str) -> Victim:
    """The engine core of its first replica."""
    return lambda cluster: engine_core_of(replica_of(deployment)(cluster).pid)


def rank_of(deployment: str) -> Victim:
    """The last tensor-parallel worker of its first replica."""
    return lambda cluster: spawned_by(core_of(deployment)(cluster))[-1]


def metadata_server(cluster: RunningCluster) -> psutil.Process:
    """Of the prefix index."""
    return next(p for p in cluster.processes() if p.name() == "valkey-server")


def controller(cluster: RunningCluster) -> psutil.Process:
    """Serve's."""
    return next(
        p for p in cluster.processes() if p.cmdline() and "ServeController" in p.cmdline()[0]
    )


def dense_events(engine: str) -> list[Event]:
    """For gateways, engines and what they lean on."""
    victims: dict[str, Victim] = {
        "gateway": replica_of("gateway"),
        "engine replica": replica_of(engine),
        "engine core": core_of(engine),
        "metadata server": metadata_server,
        "serve controller": controller,
    }
    found = [Event(kind, "kill", victim) for kind, victim in victims.items()]
    for kind in ("gateway", "engine core", "metadata server", "serve controller"):
        found.append(Event(kind, "stop", victims[kind], for_s=5.0))
    found.append(Event("engine core", "hang", victims["engine core"], for_s=60.0))
    for kind in ("gateway", "engine core"):
        found.append(Event(kind, "slow", victims[kind], for_s=6.0))
    return found

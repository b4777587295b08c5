"""What befalls a cluster: to whom, how, and for how long."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of, spawned_by
from tests.chaos.partition import Partition

Victims = Callable[[RunningCluster], list[psutil.Process]]

PARTITIONS = "cut", "part"
_LASTS_S = {"stop": 5.0, "slow": 6.0, "hang": 60.0, "cut": 5.0, "part": 60.0}
_HOWS = "kill", *_LASTS_S
_BURST_S = 0.25


@dataclass(frozen=True)
class Event:
    """One failure of one process, or of all of a node."""

    kind: str
    how: str
    """`kill`: it is gone at once. `stop`, `hang`: it answers nothing for a while, short enough
    to be overlooked or not, and goes on; its connections stay. `slow`: it does so half of
    the time. `cut`, `part`: it runs, and what it and others send each other is lost for as
    long as by `stop` and `hang`."""
    victims: Victims
    spares_started: bool = False
    """What the process has started is not parted along with it, but from it."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind}, {self.how}"


def strike(event: Event, processes: Sequence[psutil.Process]) -> Iterator[float]:
    """Do it; gives how long to wait before it goes on."""
    if event.how == "kill":
        send(processes, signal.SIGKILL)
        return
    whole_s = _LASTS_S[event.how]
    if event.how in PARTITIONS:
        with Partition(processes, spares_started=event.spares_started) as partition:
            yield whole_s
        assert partition.num_links, f"{event.name}: nothing was there to cut"
        return
    burst_s = _BURST_S if event.how == "slow" else whole_s
    for _ in range(round(whole_s / burst_s)):
        send(processes, signal.SIGSTOP)
        yield burst_s
        send(processes, signal.SIGCONT)
        if event.how == "slow":
            yield burst_s


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """To those that are still there: somebody may have noticed, and ended them."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def each_way(kind: str, victims: Victims, *, spares_started: bool = False) -> list[Event]:
    """All that can befall a kind of process."""
    return [Event(kind, how, victims, spares_started) for how in _HOWS]


def replica_of(deployment: str) -> Victims:
    """The first replica of a Serve deployment."""
    return lambda cluster: [psutil.Process(cluster.status()[deployment]["details"][0]["pid"])]


def all_of(deployment: str) -> Victims:
    """All of its replicas."""
    return lambda cluster: [
        psutil.Process(replica["pid"]) for replica in cluster.status()[deployment]["details"]
    ]


def core_of(deployment: str) -> Victims:
    """The engine core of its first replica."""
    return lambda cluster: [engine_core_of(replica_of(deployment)(cluster)[0].pid)]


def rank_of(deployment: str) -> Victims:
    """The last tensor-parallel worker of its first replica."""
    return lambda cluster: spawned_by(core_of(deployment)(cluster)[0])[-1:]


def metadata_server(cluster: RunningCluster) -> list[psutil.Process]:
    """Of the prefix index: ours, and not the cluster's, see `stages`."""
    del cluster
    started = psutil.Process().children(recursive=True)
    return [next(p for p in started if p.name() == "valkey-server")]


def controller(cluster: RunningCluster) -> list[psutil.Process]:
    """Serve's."""
    found = (p for p in cluster.processes() if "ServeController" in (p.cmdline() or [""])[0])
    return [next(found)]

"""Partitions: what some processes and the others of their machine send each other is lost.

By nftables, in a network namespace that nobody else is in; its rules and its loopback end with
it. Nobody is told: no connection is refused or reset, as where a switch fails.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

_ALONE = "COTERIE_CHAOS_ALONE"
_LOOK_S = 0.1
_TABLE = """
table inet partition {
    set links { type inet_service . inet_service; }
    set doors { type inet_service; }
    chain received {
        type filter hook input priority 0;
        tcp sport . tcp dport @links drop
        tcp dport . tcp sport @links drop
        tcp dport @doors tcp flags & (syn | ack) == syn drop
    }
}
"""


class Partition:
    """Cuts the processes, and all that they start, off from others while it is entered.

    With `spares_started` the processes alone, also from what they start. Connections that they
    make meanwhile are cut within a tenth of a second, others make none to them. Doors that they
    share with others (SO_REUSEPORT) stay open for those.
    """

    def __init__(
        self, processes: Sequence[psutil.Process], *, spares_started: bool = False
    ) -> None:
        self._processes = processes
        self._spares_started = spares_started
        self._links: set[tuple[int, int]] = set()
        self._doors: set[int] = set()
        self._is_over = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)

    @property
    def num_links(self) -> int:
        """Connections that have been cut."""
        return len(self._links)

    def __enter__(self) -> Self:
        _nft(_TABLE)
        self._look()
        self._follower.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._follower.join()
        _nft("delete table inet partition")

    def _follow(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        links, doors = self._sockets()
        # One between two of them has both its ends here.
        links = {(here, there) for here, there in links if (there, here) not in links}
        news = ""
        if added := links - self._links:
            pairs = ", ".join(f"{here} . {there}" for here, there in added)
            news += f"add element inet partition links {{ {pairs} }}\n"
        opened = doors - self._doors
        if alone := opened - _shared(opened):
            news += f"add element inet partition doors {{ {', '.join(map(str, alone))} }}\n"
        if news:
            _nft(news)
        self._links |= links
        self._doors |= doors

    def _sockets(self) -> tuple[set[tuple[int, int]], set[int]]:
        """Their connections, as two ports each, and the ports at which they listen."""
        links: set[tuple[int, int]] = set()
        doors: set[int] = set()
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                started = [] if self._spares_started else process.children(recursive=True)
                for member in [process, *started]:
                    for socket in member.net_connections("tcp"):
                        if socket.status == psutil.CONN_LISTEN:
                            doors.add(socket.laddr.port)
                        elif socket.raddr:
                            links.add((socket.laddr.port, socket.raddr.port))
        return links, doors


def _shared(doors: set[int]) -> set[int]:
    """Those at which several processes listen."""
    if not doors:
        return set()
    listening = Counter(
        port
        for port, _ in {
            (socket.laddr.port, socket.pid)
            for socket in psutil.net_connections("tcp")
            if socket.laddr and socket.status == psutil.CONN_LISTEN
        }
    )
    return {port for port in doors if listening[port] > 1}


def _nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def be_alone() -> str:
    """Begin anew in a network namespace of our own; why that cannot be, where it cannot."""
    if is_alone():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return ""
    command = ["unshare", "--net"]
    if os.geteuid() != 0:
        command.append("--map-root-user")
    why = _why_not(command)
    if not why:
        sys.stdout.flush()
        os.environ[_ALONE] = "1"
        os.execvp(command[0], [*command, *sys.orig_argv])
    return why


def is_alone() -> bool:
    """Whether partitions can be; so can mounts then."""
    return bool(os.environ.get(_ALONE))


def _why_not(command: list[str]) -> str:
    for name in ("unshare", "ip", "nft"):
        if shutil.which(name) is None:
            return f"there is no {name}"
    tried = [*command, "sh", "-c", "ip link set lo up && nft list ruleset"]
    return subprocess.run(tried, capture_output=True, text=True, check=False).stderr.strip()

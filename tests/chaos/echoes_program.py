"""Two servers that say what they hear, and what comes through while one is cut off; as JSON."""

import json
import multiprocessing
import socket
import sys
import threading
from multiprocessing.connection import Connection

import psutil

from deployments.local_cluster import free_ports
from tests.chaos.partition import Partition, be_alone

_SOON_S, _LATE_S = 0.5, 20.0


def _echo(ports: Connection, shared_port: int) -> None:
    own = socket.create_server(("127.0.0.1", 0))
    shared = socket.create_server(("127.0.0.1", shared_port), reuse_port=True)
    ports.send(own.getsockname()[1])
    threading.Thread(target=_serve, args=(shared,), daemon=True).start()
    _serve(own)


def _serve(door: socket.socket) -> None:
    while True:
        threading.Thread(target=_answer, args=door.accept()[:1], daemon=True).start()


def _answer(link: socket.socket) -> None:
    while said := link.recv(100):
        link.sendall(said)


def _is_heard(link: socket.socket, within_s: float) -> bool:
    link.settimeout(within_s)
    try:
        return bool(link.recv(100))
    except TimeoutError:
        return False


def _is_taken(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_SOON_S).close()
    except TimeoutError:
        return False
    return True


def _started(shared_port: int) -> tuple[multiprocessing.Process, int]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_echo, args=(there, shared_port), daemon=True)
    process.start()
    return process, here.recv()


def main() -> dict[str, bool]:
    """Each is so where the partition does what it says."""
    (shared_port,) = free_ports(1)
    (cut, cut_port), (_, other_port) = _started(shared_port), _started(shared_port)
    to_cut, to_other = (
        socket.create_connection(("127.0.0.1", port)) for port in (cut_port, other_port)
    )
    for link in (to_cut, to_other):
        link.sendall(b"a")
        assert _is_heard(link, _LATE_S)
    with Partition([psutil.Process(cut.pid)]) as partition:
        for link in (to_cut, to_other):
            link.sendall(b"a")
        found = {
            "a link is cut": not _is_heard(to_cut, _SOON_S) and partition.num_links == 1,
            "another is not": _is_heard(to_other, _LATE_S),
            "nobody is let in": not _is_taken(cut_port),
            "elsewhere they are": _is_taken(other_port),
            "a door of both stays open": _is_taken(shared_port),
        }
    found["nothing is lost after it"] = _is_heard(to_cut, _LATE_S)
    for spares_started, name in ((False, "started ones stay"), (True, "started ones are cut")):
        with Partition([psutil.Process()], spares_started=spares_started):
            to_cut.sendall(b"a")
            found[name] = _is_heard(to_cut, _SOON_S) != spares_started
    return found


if __name__ == "__main__":
    if why := be_alone():
        sys.exit(why)
    print(json.dumps(main()))

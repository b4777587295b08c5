"""Where a thread computes, and those that help it."""

import os
import threading
from pathlib import Path

import pytest

from deployments.link_hosts.threads import compute_with

pytestmark = [pytest.mark.model, pytest.mark.alone]

CORES = sorted(os.sched_getaffinity(0))


def threads_by_core() -> dict[int, set[int]]:
    """The threads of this process that stay on one core."""
    found: dict[int, set[int]] = {}
    for task in Path("/proc/self/task").iterdir():
        cores = os.sched_getaffinity(int(task.name))
        if len(cores) == 1:
            found.setdefault(cores.pop(), set()).add(int(task.name))
    return found


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_a_thread_is_on_the_last_core_and_what_helps_it_on_the_other() -> None:
    first, last = CORES[0], CORES[1]
    before = threads_by_core()
    own: list[int] = []
    after: list[dict[int, set[int]]] = []

    def compute() -> None:
        compute_with(2, (first, last))
        own.append(threading.get_native_id())
        after.append(threads_by_core())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    [found] = after
    assert found[last] - before.get(last, set()) == set(own)
    assert len(found[first] - before.get(first, set())) == 1


def test_one_thread_stays_on_its_core() -> None:
    seen: list[set[int]] = []

    def compute() -> None:
        compute_with(1, CORES[:1])
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert seen == [{CORES[0]}]

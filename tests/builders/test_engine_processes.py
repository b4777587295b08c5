"""How tests find an engine's processes, whatever their titles are."""

import multiprocessing
import os
import time
from multiprocessing import resource_tracker

import psutil

from tests.builders.engine_processes import spawned_by


def test_processes_without_a_title_are_found_and_helpers_are_not() -> None:
    resource_tracker.ensure_running()
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=time.sleep, args=(60,)) for _ in range(2)]
    try:
        for child in children:
            child.start()
        me = psutil.Process(os.getpid())
        # Until it has begun its own program, a process has its parent's command line.
        while len(spawned_by(me)) < len(children):
            time.sleep(0.01)
        assert [p.pid for p in spawned_by(me)] == [child.pid for child in children]
        assert len(me.children()) > len(children)
    finally:
        for child in children:
            child.terminate()
            child.join()

"""How many threads the calling thread computes with, and where."""

import os
from collections.abc import Sequence

import torch

_MANY = 1 << 20
"""Numbers enough that torch divides them among all threads."""


def compute_with(num_threads: int, cores: Sequence[int] | None = None) -> None:
    """For torch and what calls OpenMP itself.

    torch remembers the latest number that any thread has asked for, and a thread takes it
    over at its first use; asking here makes that first use this one.

    With `cores` the calling thread stays on the last of them, and those that help it on the
    others. An engine's first thread is on the first of its cores. So where both have the same
    cores, the two threads that wake each other are on two of them, and neither has to go
    before the other can come. (A thread that OpenMP starts may run where the one may that
    starts it.)
    """
    torch.set_num_threads(num_threads)
    assert torch.get_num_threads() == num_threads
    if cores is not None:
        os.sched_setaffinity(0, cores[:-1] or cores)
        torch.zeros(_MANY).add_(1.0)
        os.sched_setaffinity(0, cores[-1:])

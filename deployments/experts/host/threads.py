"""How many threads the calling thread computes with."""

import torch


def compute_with(num_threads: int) -> None:
    """For torch and what calls OpenMP itself.

    torch remembers the latest number that any thread has asked for, and a thread takes it
    over at its first use; asking here makes that first use this one.
    """
    torch.set_num_threads(num_threads)
    assert torch.get_num_threads() == num_threads

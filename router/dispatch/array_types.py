"""What the compiled functions of dispatch take, as numba names it, and work with."""

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from router.dispatch.types import Ints, Seconds

INTS = types.int32[::1]
PAIRS = types.int32[:, ::1]
SECONDS = types.float64[::1]
TABLE = types.float64[:, ::1]

COPIES = types.UniTuple(INTS, 4)
"""`LiveCopies.arrays`."""

COUNTS = types.UniTuple(INTS, 5)
"""`Scratch.counts`."""

CHAIN = types.UniTuple(INTS, 5)
"""`Scratch.chain`."""

PLACES = types.UniTuple(INTS, 2)
"""`slot_to_host` and `host_to_first_slot` of the expert map."""

CURSORS = types.UniTuple(INTS, 3)
"""`Scratch.cursors`."""


class Scratch:
    """Memory of the compiled functions, from one to the next within a call."""

    def __init__(self, num_experts: int, num_slots: int, num_hosts: int) -> None:
        self.counts = (
            np.zeros(num_experts, np.int32),  # pairs of each expert
            np.zeros(num_experts, np.int32),  # experts with several live copies
            np.zeros(num_slots, np.int32),  # pairs of each live copy
            np.zeros(num_hosts, np.int32),  # copies with pairs on each host
            np.zeros(num_hosts, np.int32),  # pairs of each host, in part
        )
        self.chain = (
            np.zeros(num_slots, np.int32),  # of a copy with pairs: the next on its host, or -1
            np.zeros(num_hosts, np.int32),  # the first of these on the host, or -1
            np.zeros(num_hosts, np.int32),  # the copy that would get a part there, or -1
            np.zeros(num_hosts, np.int32),  # the copy that this part is taken from
            np.zeros(num_hosts, np.int32),  # hosts in the order in which they were seen
        )
        self.cursors = (
            np.zeros(num_slots, np.int32),  # where the slot's next pair goes
            np.zeros(num_hosts, np.int32),  # where the host's next row goes
            np.zeros(num_hosts, np.int32),  # the token of the host's last row
        )
        # When the host would be done with the part that came to it, and when the slowest
        # host would, with which the chain begins.
        self.chain_s = np.zeros((2, num_hosts))
        self.load_s = np.zeros(num_hosts)


class Shares(NamedTuple):
    """How many pairs of its expert each live copy computes, and what comes of it.

    `load_s` is when each host will be done: with its other work, and with what it has
    got of this call, the fixed cost included.
    """

    first: Ints  # [num_experts + 1], of the live copies
    hosts: Ints  # [num_copies]
    experts: Ints  # [num_copies]
    share: Ints  # [at least num_copies], pairs
    num_parts: Ints  # [num_hosts], copies that have pairs
    load_s: Seconds  # [num_hosts]
    costs: NDArray[np.float64]  # [num_hosts, 3]

"""The nouns of the director, which decides what the slots of expert hosts hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from experts.host_report import HostReport
from experts.placement.load import Load
from experts.placement.rebalance import Reason
from experts.settings import RebalanceSection
from experts.transport.control import Order
from experts.types import ExpertMap, HostId

State = Literal["waiting", "moving", "short", "failing", "settled"]
"""`waiting`: hosts are still to come before the first plan. `moving`: orders are under way.
`short`: there is too little room for every expert. `failing`: moves have failed, and are
tried again soon. `settled`: nothing is to be done."""


@dataclass(frozen=True)
class DirectorSettings:
    """What the director of one model goes by."""

    rebalance: RebalanceSection
    num_hosts: int
    """The first plan waits for so many."""
    first_wait_s: float = 30.0
    """At most for so long, counted from the first of them."""
    order_timeout_s: float = 120.0
    """An order that has not ended by then counts as failed."""
    max_retry_s: float = 30.0
    """Longest wait after moves have failed; it begins at 1 s, and doubles."""
    look_interval_s: float = 10.0
    """How often it is asked whether another map would be worth its moves, if not
    `min_interval_s` is less."""


@dataclass(frozen=True, eq=False)
class HostOrder:
    """An order and who is to get it."""

    host: HostId
    order: Order


@dataclass(frozen=True)
class Rebalance:
    """The waves of one decision, and what became of them."""

    reason: Reason
    gain: float
    """Predicted fall of slowest over mean host time."""
    num_moves: int
    num_waves: int
    begun_s: float
    ended_s: float | None = None
    """None while it runs."""
    num_waves_done: int = 0
    trouble: str = ""
    """Why not all waves were run."""


@dataclass(frozen=True, eq=False)
class DirectorView:
    """What a director knows, and what it does."""

    state: State
    message: str
    """In words; for `short` what would help."""
    map: ExpertMap
    """By the hosts' own word."""
    reports: Sequence[HostReport]
    """The latest of each host, in the map's order."""
    load: Load
    last: Rebalance | None
    """The rebalance that runs, or the last one."""

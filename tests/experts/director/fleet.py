"""Expert hosts without weights, which take their time: what each has sent and what it has
been sent lies in queues, as on links."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experts.director.director import Director
from experts.director.types import HostOrder
from experts.host_report import HostReport
from experts.tier_view import SlotTable
from experts.transport.control import Order, Ordered, Outcome
from experts.types import EMPTY_SLOT, HostId


@dataclass
class FakeHost:
    """One host; empty where `held` is not given."""

    host: HostId
    held: NDArray[np.int16]  # [num_layers, num_slots]
    num_experts: int
    is_leaving: bool = False
    is_dead: bool = False
    version: int = 1
    counts: NDArray[np.int64] = field(init=False)  # [num_layers, num_experts]
    inbox: deque[Order] = field(default_factory=deque)
    outbox: deque[HostReport | Ordered] = field(default_factory=deque)
    begun: Order | None = None

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.held), self.num_experts), np.int64)

    def report(self) -> HostReport:
        return HostReport(
            host=self.host,
            table=SlotTable(self.version, self.held.copy()),
            tokens=2 * self.counts,
            activations=self.counts.copy(),
            activation_s=20e-6,
            token_s=0.5e-6,
            queue_s=0.0,
            busy_share=0.5,
            num_engines=1,
            num_requests=int(self.counts.sum()),
            is_leaving=self.is_leaving,
        )

    def send_report(self) -> None:
        self.outbox.append(self.report())

    def begin(self) -> None:
        """Take an order up: its slots hold nothing from here on."""
        self.begun = self.inbox.popleft()
        for layer, slot, _ in self.begun.moves:
            self.held[layer, slot] = EMPTY_SLOT
        self.version += 1

    def finish(self, failing: Iterable[int] = ()) -> None:
        """The order is carried out, but for these moves of it."""
        assert self.begun is not None
        outcomes = [Outcome.DONE] * len(self.begun.moves)
        for number, (layer, slot, expert) in enumerate(self.begun.moves):
            if number in failing:
                outcomes[number] = Outcome.FAILED
            else:
                self.held[layer, slot] = expert
        self.version += 1
        self.outbox.append(Ordered(self.begun.number, tuple(outcomes)))
        self.begun = None

    @property
    def copies(self) -> set[tuple[int, int]]:
        """Layer and expert of all that it holds."""
        layers, slots = np.nonzero(self.held != EMPTY_SLOT)
        experts = self.held[layers, slots]
        return set(zip(map(int, layers), map(int, experts), strict=True))


def new_host(name: str, num_slots: int, num_layers: int, num_experts: int) -> FakeHost:
    """An empty one."""
    held = np.full((num_layers, num_slots), EMPTY_SLOT, np.int16)
    return FakeHost(HostId(name), held, num_experts)


class Fleet:
    """Hosts and the director, with all that lies between them."""

    def __init__(self, director: Director, now_s: float = 0.0) -> None:
        self.director = director
        self.now_s = now_s
        self.hosts: dict[HostId, FakeHost] = {}

    @property
    def living(self) -> list[FakeHost]:
        return [host for host in self.hosts.values() if not host.is_dead]

    def join(self, *hosts: FakeHost) -> None:
        for host in hosts:
            self.hosts[host.host] = host
            host.send_report()

    def post(self, orders: Sequence[HostOrder]) -> None:
        """The director's orders; what is for the dead is lost."""
        for each in orders:
            self.hosts[each.host].inbox.append(each.order)

    def deliver(self, host: FakeHost) -> None:
        """The oldest thing that the host has sent; of a dead one at last that it is dead."""
        if host.outbox:
            said = host.outbox.popleft()
            if isinstance(said, Ordered):
                self.director.ended(host.host, said, self.now_s)
            else:
                self.director.reported(said, self.now_s)
        elif host.is_dead:
            del self.hosts[host.host]
            self.director.lost(host.host, self.now_s)

    def hear(self, host: FakeHost) -> None:
        """All that the host has sent."""
        while host.outbox:
            self.deliver(host)

    @property
    def covered(self) -> set[tuple[int, int]]:
        """Layer and expert of what some living host has."""
        return set[tuple[int, int]]().union(*(host.copies for host in self.living))

    def run(self, seconds: int) -> None:
        """Everybody does at once what there is to do; each second all hosts report."""
        for _ in range(seconds):
            self.now_s += 1.0
            for host in list(self.hosts.values()):
                if not host.is_dead:
                    host.send_report()
            self.settle()

    def settle(self) -> None:
        """Until nothing is on its way."""
        while True:
            for host in list(self.hosts.values()):
                while host.outbox or (host.is_dead and host.host in self.hosts):
                    self.deliver(host)
            self.post(self.director.orders(self.now_s))
            self.director.check_invariants()
            busy = [host for host in self.living if host.inbox or host.begun]
            if not busy:
                return
            for host in busy:
                if host.begun is None:
                    host.begin()
                host.finish()
                host.send_report()

"""Several gateways and the same replicas, in simulated time: who herds, and who does not.

A replica computes prompts one after another, 1,000 tokens a second. Its reports reach the
gateways 50 ms late. Gateways decide by `cost`, each with a ledger of its own.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from statistics import mean

from router.charge import Charge, LoadSum
from router.ledger import Ledger, Prefixes
from router.settings import RouterSection
from router.types import Load, LoadReport, ReplicaId, UsablePrefix
from tests.router.routing import all_ready, request

IDS = [ReplicaId(f"r{n}") for n in range(4)]
TOKENS_PER_S = 1000.0
REPORT_DELAY_S = 0.05

Arrival = tuple[float, int, int]
"""When, at which gateway, tokens of the prompt."""


@dataclass
class Server:
    """A replica: the work that it has, over all gateways and of each, and until when."""

    num_gateways: int
    free_at_s: float = 0.0
    total: LoadSum = field(default_factory=LoadSum)

    def __post_init__(self) -> None:
        self.parts = [LoadSum() for _ in range(self.num_gateways)]

    def report(self, gateway: int) -> LoadReport:
        return LoadReport(total=self.total.load, own=self.parts[gateway].load)


class Simulation:
    """Requests at `num_gateways` gateways; `waits_s` is how long each was in a queue."""

    def __init__(
        self, num_gateways: int, *, has_reports: bool, prefixes: Prefixes | None = None
    ) -> None:
        section = RouterSection()
        self.ledgers = [Ledger(section, Random(n)) for n in range(num_gateways)]
        for ledger in self.ledgers:
            ledger.set_replicas(all_ready(*IDS))
        self.servers = {r: Server(num_gateways) for r in IDS}
        self.waits_s: list[float] = []
        self._has_reports = has_reports
        self._prefixes = prefixes or {}

    def run(self, arrivals: list[Arrival]) -> "Simulation":
        numbers = count()
        events: list[tuple[float, int, Iterator[float]]] = [
            (arrival[0], next(numbers), self._serve(*arrival)) for arrival in arrivals
        ]
        if self._has_reports:
            events.append((0.0, next(numbers), self._report(arrivals[-1][0])))
        heapq.heapify(events)
        while events:
            _, _, process = heapq.heappop(events)
            for again_s in process:
                heapq.heappush(events, (again_s, next(numbers), process))
                break
        for ledger in self.ledgers:
            ledger.check_invariants()
        assert all(server.total.load == Load() for server in self.servers.values())
        return self

    def _report(self, last_s: float) -> Iterator[float]:
        now_s = 0.0
        while now_s < last_s:
            reports = [
                (ledger, replica_id, server.report(gateway))
                for replica_id, server in self.servers.items()
                for gateway, ledger in enumerate(self.ledgers)
            ]
            now_s += REPORT_DELAY_S
            yield now_s
            for ledger, replica_id, report in reports:
                ledger.take_report(replica_id, report, now_s)

    def _serve(self, now_s: float, gateway: int, num_tokens: int) -> Iterator[float]:
        asked = request(num_tokens)
        with self.ledgers[gateway].reserve(asked, self._prefixes, now_s) as reservation:
            server = self.servers[reservation.decision.replica_id]
            work_tokens = reservation.num_prefill_tokens
            charge = Charge(
                (server.total, server.parts[gateway]), Load(work_tokens, 1, num_tokens)
            )
            begins_s = max(now_s, server.free_at_s)
            server.free_at_s = begins_s + work_tokens / TOKENS_PER_S
            self.waits_s.append(begins_s - now_s)
            yield server.free_at_s
            charge.end()


def arrivals(num_gateways: int, use: float = 0.75) -> list[Arrival]:
    """Prompts of very unequal length that keep the replicas busy for `use` of the time."""
    random = Random(7)
    lengths = [50, 100, 200, 3000]
    found, now_s = [], 0.0
    for _ in range(2000):
        now_s += random.expovariate(use * len(IDS) * TOKENS_PER_S / mean(lengths))
        found.append((now_s, random.randrange(num_gateways), random.choice(lengths)))
    return found


def mean_wait_s(
    num_gateways: int, *, has_reports: bool, prefixes: Prefixes | None = None
) -> float:
    simulation = Simulation(num_gateways, has_reports=has_reports, prefixes=prefixes)
    found = mean(simulation.run(arrivals(num_gateways)).waits_s)
    print(f"{num_gateways} gateways, reports {has_reports}: {found * 1000:.0f} ms in a queue")
    return found


def test_two_gateways_with_reports_do_nearly_as_well_as_one() -> None:
    alone = mean_wait_s(1, has_reports=False)
    told, untold = (mean_wait_s(2, has_reports=told) for told in (True, False))
    assert told < 1.1 * alone
    assert untold > 1.25 * told


def test_eight_gateways_with_reports_do_nearly_as_well_as_one() -> None:
    alone = mean_wait_s(1, has_reports=False)
    told, untold = (mean_wait_s(8, has_reports=told) for told in (True, False))
    assert told < 1.1 * alone
    assert untold > 2 * told


def test_gateways_that_see_the_same_prefix_do_not_herd_onto_the_replica_that_has_it() -> None:
    prefixes = {IDS[0]: UsablePrefix(200)}
    told, untold = (mean_wait_s(2, has_reports=t, prefixes=prefixes) for t in (True, False))
    assert untold > 1.25 * told

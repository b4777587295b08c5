"""What must hold whatever happens to hosts, and in whatever order it is heard of."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from experts.director.director import Director
from experts.director.types import DirectorSettings
from experts.placement.hosts import possible_copies
from experts.settings import RebalanceSection
from experts.types import EMPTY_SLOT
from tests.experts.director.fleet import FakeHost, Fleet, new_host

NUM_LAYERS, NUM_EXPERTS = 2, 3
SECTIONS = st.builds(
    RebalanceSection,
    algorithm=st.sampled_from(["cost", "eplb"]),
    min_copies=st.integers(1, 2),
    min_gain=st.just(0.01),
    min_interval_s=st.sampled_from([0.0, 5.0]),
    max_moves_per_host=st.integers(1, 2),
)


class FleetLives(RuleBasedStateMachine):
    """An expert that somebody has is had by somebody, unless its host dies."""

    def __init__(self) -> None:
        super().__init__()
        self.num_joined = 0
        self.covered: set[tuple[int, int]] = set()
        # What dead hosts had, while orders may be under way that relied on it.
        self.at_risk: set[tuple[int, int]] = set()

    @initialize(rebalance=SECTIONS, num_hosts=st.integers(1, 3))
    def begin(self, rebalance: RebalanceSection, num_hosts: int) -> None:
        chosen = DirectorSettings(rebalance, num_hosts, order_timeout_s=20.0)
        self.fleet = Fleet(Director(NUM_LAYERS, NUM_EXPERTS, chosen, 0.0))

    @precondition(lambda self: len(self.fleet.hosts) < 4)
    @rule(num_slots=st.integers(1, 3))
    def a_host_joins(self, num_slots: int) -> None:
        self.num_joined += 1
        name = f"h{self.num_joined}"
        self.fleet.join(new_host(name, num_slots, NUM_LAYERS, NUM_EXPERTS))

    @precondition(lambda self: self.fleet.living)
    @rule(data=st.data(), work=st.integers(0, 3))
    def a_host_reports(self, data: st.DataObject, work: int) -> None:
        host = self.one(data, self.fleet.living)
        for layer, expert in host.copies:
            host.counts[layer, expert] += work * (expert + 1)
        host.send_report()

    @precondition(lambda self: self.fleet.hosts)
    @rule(data=st.data())
    def word_of_a_host_arrives(self, data: st.DataObject) -> None:
        self.fleet.deliver(self.one(data, self.fleet.hosts.values()))

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.fleet.now_s += seconds

    @rule()
    def the_director_gives_orders(self) -> None:
        self.fleet.post(self.fleet.director.orders(self.fleet.now_s))

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        while any(host.begun or host.inbox for host in self.fleet.living):
            for host in self.fleet.living:
                if host.begun:
                    host.finish()
                if host.inbox:
                    host.begin()
        self.fleet.settle()

    @precondition(lambda self: any(h.inbox and not h.begun for h in self.fleet.living))
    @rule(data=st.data())
    def a_host_begins_an_order(self, data: st.DataObject) -> None:
        self.one(data, [h for h in self.fleet.living if h.inbox and not h.begun]).begin()

    @precondition(lambda self: any(h.begun for h in self.fleet.living))
    @rule(data=st.data(), failing=st.sets(st.integers(0, 1)))
    def a_host_ends_an_order(self, data: st.DataObject, failing: set[int]) -> None:
        self.one(data, [h for h in self.fleet.living if h.begun]).finish(failing)

    @precondition(lambda self: self.fleet.living)
    @rule(data=st.data())
    def a_host_wants_to_leave(self, data: st.DataObject) -> None:
        self.one(data, self.fleet.living).is_leaving = True

    @precondition(lambda self: self.fleet.living)
    @rule(data=st.data())
    def a_host_dies(self, data: st.DataObject) -> None:
        host = self.one(data, self.fleet.living)
        host.is_dead = True
        self.at_risk |= host.copies
        self.covered -= host.copies - self.fleet.covered

    def one(self, data: st.DataObject, hosts: object) -> FakeHost:
        found: FakeHost = data.draw(st.sampled_from(sorted(hosts, key=lambda h: h.host)))  # type: ignore[call-overload]
        return found

    @invariant()
    def nothing_is_lost_but_with_its_host(self) -> None:
        if not hasattr(self, "fleet"):
            return
        self.fleet.director.check_invariants()
        covered = self.fleet.covered
        assert self.covered - covered <= self.at_risk
        self.covered = covered
        hosts = self.fleet.hosts.values()
        if not any(host.is_dead or host.inbox for host in hosts):
            self.at_risk.clear()

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        self.all_goes_well_for_a_while()
        fleet.run(90)
        view = fleet.director.view(fleet.now_s)
        staying = [host for host in fleet.living if not host.is_leaving]
        sizes = [host.held.shape[1] for host in staying]
        if possible_copies(sizes, NUM_EXPERTS, 1):
            assert view.map.is_covering
            assert view.state == "settled", view.message
            for host in fleet.living:
                assert not host.is_leaving or (host.held == EMPTY_SLOT).all()
        else:
            assert view.state in ("short", "waiting")


TestFleetLives = FleetLives.TestCase
TestFleetLives.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)

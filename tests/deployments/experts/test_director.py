"""The director's thread over real links, with hosts that have no weights."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.experts.director import DirectorThread
from experts.director.types import DirectorSettings, DirectorView
from experts.settings import RebalanceSection
from experts.types import HostId, ModelShape
from tests.deployments.experts.link_host import LinkHost
from tests.experts.director.fleet import new_host

SHAPE, MODEL = ModelShape(1, 3, 2, 64, 32), "sha256:1234"
SETTINGS = DirectorSettings(RebalanceSection(min_interval_s=0.5), num_hosts=2)
SECRET = "a secret that the processes of the cluster share"


@dataclass
class Tier:
    """A director and its hosts; what is listed is what it is told."""

    folder: Path
    way: str
    director: DirectorThread
    hosts: dict[str, LinkHost] = field(default_factory=dict)

    def start(self, name: str, num_slots: int, model: str = "") -> LinkHost:
        address = "tcp://127.0.0.1:0"
        if self.way == "unix":
            address = f"unix://{self.folder}/{name}"
        digest = model or MODEL
        found = LinkHost(new_host(name, num_slots, 1, 3), digest, address, SECRET)
        self.hosts[name] = found.start()
        self.list(*self.hosts)
        return found

    def list(self, *names: str) -> None:
        self.director.set_hosts([self.hosts[name].card for name in names])

    def wait(self, holds: Callable[[DirectorView], bool]) -> DirectorView:
        deadline = time.monotonic() + 15
        while not holds(view := self.director.view()):
            assert self.director.failure is None
            assert time.monotonic() < deadline, (view.state, view.message, view.map)
            time.sleep(0.01)
        return view


@pytest.fixture(params=["unix", "tcp"])
def tier(request: pytest.FixtureRequest) -> Iterator[Tier]:
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
        made = Tier(Path(folder), request.param, DirectorThread(SHAPE, MODEL, SETTINGS, SECRET))
        made.director.start()
        try:
            yield made
        finally:
            made.director.close()
            for host in made.hosts.values():
                host.close()


def test_hosts_that_are_listed_are_filled_and_those_that_die_are_made_good(
    tier: Tier,
) -> None:
    a = tier.start("a", 2)
    b = tier.start("b", 2)
    full = tier.wait(lambda view: view.state == "settled")
    assert full.map.is_covering
    assert set(full.map.hosts) == {"a", "b"}
    b.close()
    short = tier.wait(lambda view: view.state == "short")
    assert short.map.hosts == ("a",)
    tier.start("c", 2)
    again = tier.wait(lambda view: view.map.is_covering and view.state == "settled")
    assert again.map.hosts == ("a", "c")
    assert again.last is not None
    assert again.last.reason == "uncovered"
    assert a.num_orders >= 1


def test_a_host_that_leaves_is_emptied_though_it_is_listed_no_more(tier: Tier) -> None:
    leaving = tier.start("a", 2)
    for name in ("b", "c"):
        tier.start(name, 2)
    tier.wait(lambda view: len(view.map.hosts) == 3 and view.map.is_covering)
    leaving.fake.is_leaving = True
    tier.list("b", "c")
    tier.wait(lambda _: not leaving.fake.copies)
    assert tier.hosts["b"].fake.copies | tier.hosts["c"].fake.copies == {
        (0, 0),
        (0, 1),
        (0, 2),
    }
    leaving.close()
    tier.wait(lambda view: set(view.map.hosts) == {"b", "c"})


def test_a_host_of_another_model_and_one_that_nobody_answers_for_are_passed_over(
    tier: Tier,
) -> None:
    tier.start("x", 2, model="another")
    tier.start("gone", 2).close()
    tier.start("a", 2)
    tier.start("b", 2)
    tier.list("a", "b", "gone", "x")
    assert tier.wait(lambda view: len(view.map.hosts) == 2).state in ("waiting", "moving")
    assert HostId("x") not in tier.director.view().map.hosts


def test_a_director_that_takes_anothers_place_orders_nothing_anew(tier: Tier) -> None:
    hosts = [tier.start("a", 2), tier.start("b", 2)]
    tier.wait(lambda view: view.state == "settled")
    num_orders = [host.num_orders for host in hosts]
    tier.director.close()
    tier.director = DirectorThread(SHAPE, MODEL, SETTINGS, SECRET)
    tier.director.start()
    tier.list("a", "b")
    assert tier.wait(lambda view: view.state == "settled").map.is_covering
    assert [host.num_orders for host in hosts] == num_orders

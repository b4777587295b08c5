"""The director's links, driven by hand: who is dialled, asked, and counted as lost."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.experts.director_links import ASK_INTERVAL_S, HostLinks
from experts.directory import HostCard
from experts.host_report import HostReport
from experts.transport.control import Ordered, Outcome, order_frame
from experts.transport.hub import Hub
from experts.transport.link import Identity
from experts.types import HostId
from infra.errors import ConfigError
from tests.deployments.experts.link_host import LinkHost
from tests.experts.director.fleet import new_host
from tests.experts.director.orders import order_of

MODEL = "m"
A, B = HostId("a"), HostId("b")


@dataclass
class Heard:
    """A `Listener` that takes everything down."""

    reports: list[HostId] = field(default_factory=list)
    ended_orders: list[tuple[HostId, Ordered]] = field(default_factory=list)
    lost_hosts: list[HostId] = field(default_factory=list)
    refused: frozenset[HostId] = frozenset()

    def reported(self, report: HostReport) -> None:
        if report.host in self.refused:
            raise ConfigError("a host of another model")
        self.reports.append(report.host)

    def ended(self, host: HostId, ordered: Ordered) -> None:
        self.ended_orders.append((host, ordered))

    def lost(self, host: HostId) -> None:
        self.lost_hosts.append(host)


@dataclass
class World:
    """Links and hosts; the clock is a number."""

    folder: Path
    hub: Hub
    heard: Heard
    links: HostLinks
    hosts: dict[str, LinkHost] = field(default_factory=dict)
    now_s: float = 0.0

    def start(self, name: str, as_name: str | None = None) -> HostCard:
        fake = new_host(name, 2, 1, 3)
        host = LinkHost(fake, MODEL, f"unix://{self.folder}/{name}", None).start()
        self.hosts[name] = host
        return HostCard(HostId(as_name or name), host.card.addresses)

    def turn(self) -> None:
        """What the director's thread does in a turn."""
        self.links.dial(self.now_s)
        self.links.ask(self.now_s)
        self.links.hear(self.hub.wait(0.05))
        self.links.check_invariants()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            self.turn()


@pytest.fixture
def world() -> Iterator[World]:
    with (
        tempfile.TemporaryDirectory(prefix="links-") as folder,
        Hub(Identity("director", MODEL)) as hub,
    ):
        heard = Heard()
        made = World(Path(folder), hub, heard, HostLinks(hub, heard))
        yield made
        for host in made.hosts.values():
            host.close()


def test_a_listed_host_is_asked_once_in_each_interval(world: World) -> None:
    world.links.list([world.start("a")])
    world.until(lambda: world.heard.reports == [A])
    for _ in range(3):
        world.turn()
    assert world.heard.reports == [A]
    world.now_s += ASK_INTERVAL_S
    world.until(lambda: world.heard.reports == [A, A])


def test_a_host_is_asked_again_at_once_when_its_order_has_ended(world: World) -> None:
    world.links.list([world.start("a")])
    world.until(lambda: world.heard.reports == [A])
    world.links.send(A, order_frame(order_of(7, (0, 1, 2))))
    world.until(lambda: world.heard.reports == [A, A])
    assert world.heard.ended_orders == [(A, Ordered(7, (Outcome.DONE,)))]


def test_a_host_that_dies_is_lost_once_and_dialled_as_long_as_it_is_listed(
    world: World,
) -> None:
    world.links.list([world.start("a"), world.start("b")])
    world.until(lambda: world.links.linked == {A, B})
    world.hosts["a"].close()
    world.until(lambda: world.heard.lost_hosts == [A])
    for _ in range(3):
        world.now_s += 20.0
        world.turn()
    assert world.heard.lost_hosts == [A]
    assert world.links.linked == {B}
    world.links.list([])
    world.turn()
    assert world.links.linked == {B}, "it may have to be emptied before it goes"
    world.hosts["b"].close()
    world.until(lambda: world.heard.lost_hosts == [A, B])


def test_another_host_at_the_address_is_not_taken_for_the_one_that_is_listed(
    world: World,
) -> None:
    world.links.list([world.start("a", as_name="b")])
    world.turn()
    assert world.links.linked == frozenset()
    assert world.heard == Heard()


def test_a_host_that_the_director_refuses_is_left(world: World) -> None:
    world.heard.refused = frozenset([A])
    world.links.list([world.start("a"), world.start("b")])
    world.until(lambda: world.heard.lost_hosts == [A] and world.heard.reports == [B])
    for _ in range(3):
        world.turn()
    assert world.heard.lost_hosts == [A]
    world.now_s += ASK_INTERVAL_S
    world.until(lambda: world.heard.lost_hosts == [A, A])


def test_what_is_sent_to_a_host_without_a_link_is_dropped(world: World) -> None:
    world.links.send(A, b"frame")
    world.links.list([world.start("a")])
    world.links.send(A, b"frame")
    world.until(lambda: world.heard.reports == [A])
    assert world.heard.lost_hosts == []

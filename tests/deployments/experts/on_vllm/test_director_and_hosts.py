"""The director's thread and real hosts, as an engine sees them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experts.checkpoint.reader import CheckpointReader
from experts.settings import RebalanceSection
from experts.tier_view import TierView
from experts.transport import control
from experts.transport.errors import PeerLostError
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link
from experts.types import HostId
from tests.builders.expert_tier import HostInThread, LocalTier, local_tier
from tests.deployments.experts.on_vllm.host.random_model import (
    NUM_EXPERTS,
    NUM_LAYERS,
    RandomModel,
)

pytestmark = pytest.mark.model


class HostThatLeaves(HostInThread):
    """One that can be told to go."""

    def leave(self) -> None:
        self._host.leave()

    @property
    def is_empty(self) -> bool:
        return self._host.is_empty


class Following:
    """What an engine knows of the hosts; every word of theirs is acknowledged at once."""

    def __init__(self, hub: Hub, tier: LocalTier) -> None:
        self._hub = hub
        self._link_to_host: dict[int, HostId] = {}
        self.view = TierView(NUM_LAYERS, NUM_EXPERTS)
        self.was_covering: list[bool] = []
        for host in tier.hosts:
            link = hub.dial(host.card.addresses[0])
            self._link_to_host[id(link)] = host.card.host
            self._send(link, control.follow_frame())

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, self.view.map
            for link in self._hub.wait(0.05):
                self._hear(link)

    def _hear(self, link: Link) -> None:
        host = self._link_to_host[id(link)]
        try:
            frame = link.receive()
        except PeerLostError:
            link.close()
            self.view.lost(host)
            return
        if frame is not None:
            table = control.read_table(frame)
            del frame
            link.release()
            self.view.announced(host, table)
            self.was_covering.append(self.view.map.is_covering)
            self._send(link, control.done_frame(table.version))

    def _send(self, link: Link, frame: bytes) -> None:
        link.reserve(len(frame), 1.0)[:] = frame
        link.commit()


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[LocalTier]:
    model = RandomModel.write(tmp_path)
    rebalance = RebalanceSection(max_moves_per_host=2)
    with local_tier(model.folder, 3, 3, rebalance=rebalance, kind=HostThatLeaves) as running:
        yield running


def test_a_host_that_leaves_gives_away_all_it_has_and_no_engine_misses_an_expert(
    tier: LocalTier,
) -> None:
    leaving = tier.hosts[0]
    model = CheckpointReader.open(tier.model).digest
    with Hub(Identity("engine", model)) as hub:
        engine = Following(hub, tier)
        engine.until(lambda: len(engine.view.tables) == 3 and engine.view.map.is_covering)
        engine.was_covering.clear()
        leaving.leave()
        engine.until(lambda: bool(leaving.is_empty))
        assert engine.was_covering
        assert all(engine.was_covering)
        tier.hosts.remove(leaving)
        tier.tell()
        leaving.close()
        engine.until(lambda: len(engine.view.tables) == 2)
        assert engine.view.map.is_covering
    left = tier.until_settled()
    assert left.map.is_covering
    assert leaving.card.host not in left.map.hosts

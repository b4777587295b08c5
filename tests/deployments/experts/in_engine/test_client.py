"""An engine's client of expert hosts: right results, whatever the hosts do."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.experts.in_engine.client.board import Board, KnownTier
from deployments.experts.in_engine.client.client import TierClient
from deployments.experts.in_engine.client.follower import Follower, run_follower
from deployments.experts.in_engine.client.lines import Lines
from experts.directory import DirectoryFile, write_directory
from experts.tier_view import TierView
from experts.transport.hub import Hub
from experts.transport.link import Identity, LinkSettings
from experts.transport.messages import RowType
from router.dispatch.settings import DispatchSection
from tests.builders.until import wait_until
from tests.deployments.experts.in_engine.fake_hosts import MODEL, FakeHost, Manner, computed

NUM_LAYERS, NUM_EXPERTS, HIDDEN = 2, 4, 8
HALF = [[0, 1], [2, 3]]
OTHER_HALF = [[2, 3], [0, 1]]
ALL = [[0, 1, 2, 3], [3, 2, 1, 0]]


class CountingExperts:
    """The engine's own."""

    def __init__(self) -> None:
        self.num_pairs = 0

    def compute(
        self, layer: int, rows: NDArray[Any], pair_to_row: NDArray[Any], experts: NDArray[Any]
    ) -> NDArray[np.float32]:
        self.num_pairs += len(experts)
        results = [
            computed(layer, int(expert), rows[row])
            for row, expert in zip(pair_to_row, experts, strict=True)
        ]
        return np.array(results, np.float32)


@dataclass
class Engine:
    """A client, its follower, and the hosts that it is told of."""

    folder: Path
    client: TierClient
    local: CountingExperts
    board: Board
    lines: Lines
    hosts: dict[str, FakeHost] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def start(self, name: str, held: list[list[int]]) -> FakeHost:
        """A host, which the engine knows when this returns."""
        self.hosts[name] = host = FakeHost(self.folder, name, held)
        self.tell()
        self.until(lambda: host.host in self.known)
        return host

    def tell(self) -> None:
        """Write down who is there."""
        write_directory(self.folder / "hosts", [host.card for host in self.hosts.values()])

    @property
    def known(self) -> tuple[str, ...]:
        """The hosts that have told of their slots."""
        hosts = self.board.take().map.hosts
        self.board.put_back()
        return hosts

    @property
    def held(self) -> list[list[int]]:
        """What all slots hold, as the engine knows it."""
        found: list[list[int]] = self.board.take().map.physical_to_logical.tolist()
        self.board.put_back()
        return found

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait, at most ten seconds."""
        wait_until(holds, 10, look_s=0.005)

    def ask(self, num_tokens: int = 5, top_k: int = 2, layer: int = 0) -> int:
        """A layer of random tokens, with the right results; the pairs computed locally."""
        before = self.local.num_pairs
        rows = self.rng.standard_normal((num_tokens, HIDDEN)).astype(np.float32)
        ids = np.array(
            [self.rng.permutation(NUM_EXPERTS)[:top_k] for _ in range(num_tokens)], np.int32
        ).reshape(num_tokens, top_k)
        self.client.begin(layer, rows, ids)
        self.client.check_invariants()
        found = self.client.finish()
        self.client.check_invariants()
        expected = [
            computed(layer, int(expert), row)
            for row, experts in zip(rows, ids, strict=True)
            for expert in experts
        ]
        assert np.array_equal(found, np.array(expected, np.float32).reshape(-1, HIDDEN))
        return self.local.num_pairs - before


def engine_in(folder: Path, settings: LinkSettings, **section: Any) -> Iterator[Engine]:
    view = TierView(NUM_LAYERS, NUM_EXPERTS)
    board = Board(KnownTier(view.map, {}, {}))
    lines = Lines(Hub(Identity("engine", MODEL), settings), time.monotonic)
    local = CountingExperts()
    options = DispatchSection(**{"late_s": 0.15} | section)
    client = TierClient(board, lines, local, options, RowType.FLOAT32)
    end = run_follower(
        lambda: Follower(
            Hub(Identity("follower", MODEL), settings),
            DirectoryFile(folder / "hosts"),
            view,
            board,
            time.monotonic,
        )
    )
    engine = Engine(folder, client, local, board, lines)
    try:
        yield engine
    finally:
        end()
        lines.close()
        for host in engine.hosts.values():
            host.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    tmp_path.chmod(0o700)
    yield from engine_in(tmp_path, LinkSettings(max_frame_bytes=4096))


def test_without_hosts_the_engine_computes_all_itself(engine: Engine) -> None:
    assert engine.ask(num_tokens=5, top_k=2) == 10
    assert engine.ask(num_tokens=0) == 0


def test_hosts_compute_what_they_hold_and_the_engine_the_rest(engine: Engine) -> None:
    a = engine.start("a", HALF)
    assert engine.ask(num_tokens=3, top_k=4) == 6
    assert a.num_requests == 1
    b = engine.start("b", OTHER_HALF)
    for layer in range(NUM_LAYERS):
        assert engine.ask(num_tokens=7, top_k=4, layer=layer) == 0
    assert (a.num_requests, b.num_requests) == (3, 2)
    assert engine.client.stats.num_pairs == 12 + 2 * 28
    assert engine.client.stats.num_local_pairs == 6


def test_what_does_not_fit_into_one_frame_goes_in_several(engine: Engine) -> None:
    a = engine.start("a", ALL)
    assert engine.ask(num_tokens=400, top_k=4) == 0
    assert a.num_requests > 10


def test_no_tokens_are_no_requests(engine: Engine) -> None:
    a = engine.start("a", ALL)
    assert engine.ask(num_tokens=0) == 0
    assert a.num_requests == 0


def test_a_host_that_dies_is_replaced_by_another_copy(engine: Engine) -> None:
    a, b = engine.start("a", ALL), engine.start("b", ALL)
    a.behave("breaks down")
    b.behave("breaks down")
    c = engine.start("c", ALL)
    assert engine.ask(num_tokens=9, top_k=4) == 0
    assert c.num_requests > 0
    engine.until(lambda: engine.known == ("c",))
    assert engine.ask() == 0


def test_where_the_last_copy_dies_the_engine_computes_itself(engine: Engine) -> None:
    engine.start("a", HALF).behave("breaks down")
    engine.start("b", OTHER_HALF)
    assert engine.ask(num_tokens=3, top_k=4) == 6
    engine.until(lambda: engine.known == ("b",))
    assert engine.ask(num_tokens=3, top_k=4) == 6
    # It comes back as another one.
    engine.start("a2", HALF)
    assert engine.ask(num_tokens=3, top_k=4) == 0


@pytest.mark.parametrize("manner", ["other map", "failed", "too few rows"])
def test_what_a_host_answers_wrongly_is_asked_of_another(
    engine: Engine, manner: Manner
) -> None:
    a, b = engine.start("a", ALL), engine.start("b", ALL)
    a.behave(manner)
    for _ in range(4):
        assert engine.ask(num_tokens=9, top_k=4) == 0
    assert a.num_requests > 0
    assert b.num_requests > 0
    b.behave(manner)
    assert engine.ask(num_tokens=9, top_k=4) == 36


def test_a_silent_host_is_left_and_comes_back_when_it_has_answered(engine: Engine) -> None:
    a, b = engine.start("a", ALL), engine.start("b", ALL)
    a.behave("silent")
    start_s = time.monotonic()
    for _ in range(5):
        assert engine.ask(num_tokens=9, top_k=4) == 0
    # It was waited for once, and is not asked again.
    assert engine.client.stats.num_late == 1
    assert time.monotonic() - start_s < 5 * 0.15 + 2
    assert b.num_requests >= 5
    a.behave("well")
    engine.until(lambda: engine.ask(num_tokens=9, top_k=4) == 0 and a.num_requests > 3)
    assert engine.client.stats.num_late == 1
    assert engine.client.stats.num_lost == 0


def test_the_only_host_comes_back_as_well(engine: Engine) -> None:
    a = engine.start("a", ALL)
    a.behave("silent")
    assert engine.ask(num_tokens=2, top_k=4) == 8
    assert engine.client.stats.num_late == 1
    a.behave("well")
    # Nothing is waited for: all is computed in the engine until the host has answered.
    engine.until(lambda: engine.ask(num_tokens=2, top_k=4) == 0)
    assert engine.client.stats.num_late == 1
    assert engine.client.stats.num_lost == 0


def test_the_only_host_is_lost_where_it_ends_while_it_is_late(engine: Engine) -> None:
    a = engine.start("a", ALL)
    a.behave("silent")
    assert engine.ask(num_tokens=2, top_k=4) == 8
    a.behave("breaks down")
    engine.until(lambda: engine.ask(num_tokens=2, top_k=4) == 8 and not engine.lines.all)
    assert engine.client.stats.num_late == 1


def test_a_slot_is_given_up_between_two_layers(engine: Engine) -> None:
    a = engine.start("a", ALL)
    engine.until(lambda: a.done == [1])
    a.change([[0, 1, -1, 3], [3, 2, 1, 0]])
    engine.until(lambda: engine.held == a.table.held.tolist())
    engine.until(lambda: a.done == [1, 2])
    assert engine.ask(num_tokens=6, top_k=4) == 6


def test_while_a_layer_is_under_way_nothing_is_given_up(engine: Engine) -> None:
    a = engine.start("a", ALL)
    engine.until(lambda: a.done == [1])
    rows, ids = np.ones((1, HIDDEN), np.float32), np.array([[2]], np.int32)
    engine.client.begin(0, rows, ids)
    a.change([[0, 1, -1, 3], [3, 2, 1, 0]])
    time.sleep(0.2)
    assert a.done == [1]
    engine.client.finish()
    engine.until(lambda: a.done == [1, 2])


def test_a_host_that_leaves_the_directory_is_asked_nothing_more(engine: Engine) -> None:
    a = engine.start("a", ALL)
    engine.ask()
    del engine.hosts["a"]
    engine.tell()
    try:
        engine.until(lambda: engine.known == ())
        before = a.num_requests
        assert engine.ask(num_tokens=3, top_k=2) == 6
        assert a.num_requests == before
    finally:
        a.close()


def test_a_host_of_another_model_is_not_counted_on(engine: Engine) -> None:
    engine.hosts["a"] = FakeHost(engine.folder, "a", [[0, 1, 2, 3]])
    engine.tell()
    engine.start("b", HALF)
    assert engine.known == ("b",)


def test_checksums_can_be_asked_for(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for engine in engine_in(tmp_path, LinkSettings(max_frame_bytes=4096), checksums=True):
        a = engine.start("a", ALL)
        assert engine.ask(num_tokens=3, top_k=4) == 0
        assert a.num_requests == 1

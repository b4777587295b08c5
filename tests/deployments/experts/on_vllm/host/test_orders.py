"""Slots change while engines ask; nobody ever gets another expert's result."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.experts.host import filler
from deployments.experts.kernel import ExpertKernel, PairRequest, Results
from deployments.experts.kernel_choice import HostExperts
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import ExpertStrips
from experts.transport.control import Ordered, Outcome
from experts.transport.messages import Status
from experts.types import EMPTY_SLOT
from tests.deployments.experts.on_vllm.host.engine_client import LIMIT_S, Client
from tests.deployments.experts.on_vllm.host.random_model import (
    NUM_EXPERTS,
    NUM_LAYERS,
    RandomModel,
)
from tests.deployments.experts.on_vllm.host.running_host import (
    RunningHost,
    best_experts,
    running,
    settings_in,
)

pytestmark = pytest.mark.model

E = EMPTY_SLOT
DONE, FAILED, REFUSED = Outcome
NUM_SLOTS = 3
PLACES = [(layer, slot) for layer in range(NUM_LAYERS) for slot in range(NUM_SLOTS)]


@dataclass
class HeldReader:
    """An `ExpertReader` that waits before it reads, once it is told to."""

    model: RandomModel
    may_go: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        self.has_begun.set()
        assert self.may_go.wait(LIMIT_S)
        return self.model.reader.expert(layer, expert)


@dataclass
class CountingReader:
    """Says with how many threads it is read."""

    model: RandomModel
    num_threads: list[int] = field(default_factory=list)

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        self.num_threads.append(torch.get_num_threads())
        return self.model.reader.expert(layer, expert)


@dataclass
class CountingThreads:
    """Says with how many threads it computes."""

    kernel: ExpertKernel
    num_threads: list[int] = field(default_factory=list)
    is_exact = False

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        self.num_threads.append(torch.get_num_threads())
        return self.kernel.compute(layer, requests)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return RandomModel.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
def host(model: RandomModel, socket_folder: Path) -> Iterator[RunningHost]:
    with running(model, settings_in(socket_folder, NUM_SLOTS)) as found:
        yield found


def check(client: Client, model: RandomModel, slot: int, expert: int, version: int) -> None:
    """Slot and expert are layer 0's."""
    answer = client.asked(0, model.rows, [(1, slot)], version)
    assert answer.status == Status.OK
    expected = model.expected(0, [(1, expert)])
    np.testing.assert_allclose(answer.rows, expected, rtol=1e-4, atol=1e-5)


def test_a_follower_is_told_and_waited_for(host: RunningHost, model: RandomModel) -> None:
    with host.client("d") as director, host.client() as engine, host.client() as data:
        director.fill((0, 0, 1), (0, 1, 2))
        assert engine.follow().held.tolist() == [[1, 2, E], [E, E, E]]
        check(data, model, 0, 1, 2)
        director.order(5, (0, 0, 3))
        table = engine.table()
        assert (table.version, table.held.tolist()) == (3, [[E, 2, E], [E, E, E]])
        engine.done(2)
        # Its old content is there still, and nobody may use it.
        assert data.asked(0, model.rows, [(1, 0)], 2).status == Status.OTHER_MAP
        assert director.report().table.held.tolist() == [[E, 2, E], [E, E, E]]
        engine.done(3)
        table = engine.table()
        assert (table.version, table.held.tolist()) == (4, [[3, 2, E], [E, E, E]])
        assert director.ordered() == Ordered(5, (DONE,))
        check(data, model, 0, 3, 4)
        check(data, model, 1, 2, 2)
        assert data.asked(0, model.rows, [(1, 0)], 3).status == Status.OTHER_MAP


def test_a_follower_that_never_acknowledges_holds_an_order_up_for_so_long(
    model: RandomModel, socket_folder: Path
) -> None:
    wanted = replace(settings_in(socket_folder), ack_timeout_s=0.3)
    with (
        running(model, wanted) as host,
        host.client("d") as director,
        host.client() as engine,
    ):
        director.fill((0, 0, 1))
        engine.follow()
        began_s = time.monotonic()
        director.order(2, (0, 0, 2))
        assert director.ordered() == Ordered(2, (DONE,))
        assert time.monotonic() - began_s >= 0.3
        tables = [engine.table().held[0].tolist() for _ in range(2)]
        assert tables == [[E, E, E], [2, E, E]]
        assert engine.asked(0, model.rows, [(0, 0)], 2).status == Status.OTHER_MAP


def test_a_follower_that_is_gone_is_not_waited_for(
    host: RunningHost, model: RandomModel
) -> None:
    with host.client("d") as director:
        director.fill((0, 0, 1))
        with host.client() as engine:
            engine.follow()
            director.order(2, (0, 0, 2))
            engine.table()
        assert director.ordered() == Ordered(2, (DONE,))
        assert director.report().num_engines == 0
        check(director, model, 0, 2, 4)


def test_a_host_serves_while_a_slot_is_filled(model: RandomModel, socket_folder: Path) -> None:
    reader = HeldReader(model)
    reader.may_go.set()
    with (
        running(model, settings_in(socket_folder), reader=reader) as host,
        host.client("d") as director,
        host.client() as engine,
    ):
        try:
            director.fill((0, 0, 1), (0, 1, 2))
            reader.may_go.clear()
            reader.has_begun.clear()
            director.order(2, (0, 0, 3))
            assert reader.has_begun.wait(LIMIT_S)
            for _ in range(5):
                check(engine, model, 1, 2, 3)
            assert director.report().table.held.tolist() == [[E, 2, E], [E, E, E]]
            # Another director, which does not know of the first one's order.
            with host.client("e") as other:
                other.order(9, (0, 0, 2), (0, 1, 2), (7, 0, 0))
                reader.may_go.set()
                assert director.ordered() == Ordered(2, (DONE,))
                assert other.ordered() == Ordered(9, (REFUSED, DONE, REFUSED))
            check(engine, model, 0, 3, 4)
        finally:
            reader.may_go.set()


def test_computing_and_filling_have_their_own_numbers_of_threads(
    model: RandomModel, socket_folder: Path
) -> None:
    wanted = replace(settings_in(socket_folder), num_threads=2)
    experts = best_experts(model, wanted)
    kernel = CountingThreads(experts.kernel)
    counting = HostExperts(experts.slots, kernel, experts.bytes_per_slot)
    reader = CountingReader(model)
    with running(model, wanted, counting, reader) as host, host.client() as engine:
        for version, slot in ((2, 0), (3, 1)):
            engine.fill((0, slot, 1))
            check(engine, model, slot, 1, version)
    assert (reader.num_threads, kernel.num_threads) == ([1, 1], [2, 2])


def test_an_order_goes_on_when_its_director_is_gone(
    model: RandomModel, socket_folder: Path
) -> None:
    reader = HeldReader(model)
    with (
        running(model, settings_in(socket_folder), reader=reader) as host,
        host.client() as engine,
    ):
        try:
            engine.follow()
            with host.client("d") as director:
                director.order(1, (0, 0, 1))
                assert reader.has_begun.wait(LIMIT_S)
        finally:
            reader.may_go.set()
        assert engine.table().held.tolist() == [[1, E, E], [E, E, E]]


def test_a_checkpoint_that_is_gone_fails_the_order_and_not_the_host(
    tmp_path: Path, socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filler.log, "disabled", True)
    own = RandomModel.write(tmp_path / "model")
    # What is mapped already stays: here nothing is.
    fresh = CheckpointReader.open(own.folder)
    (own.folder / "model.safetensors").unlink()
    settings = settings_in(socket_folder)
    with running(own, settings, reader=fresh) as host, host.client() as engine:
        engine.order(1, (0, 0, 1), (0, 1, E))
        assert engine.ordered() == Ordered(1, (FAILED, DONE))
        report = engine.report()
        assert (report.table.version, report.table.held.tolist()) == (1, [[E] * 3] * 2)
        assert engine.asked(0, own.rows, [(0, 0)], 1).status == Status.OTHER_MAP


def test_a_host_that_is_leaving_is_empty_when_its_copies_are_taken_away(
    host: RunningHost, model: RandomModel
) -> None:
    with host.client("d") as director:
        director.fill((0, 0, 1), (1, 2, 0))
        assert not host.host.is_empty
        host.host.leave()
        assert director.report().is_leaving
        assert not host.host.is_empty
        check(director, model, 0, 1, 2)
        director.order(2, (0, 0, E), (1, 2, E))
        assert director.ordered() == Ordered(2, (DONE, DONE))
        deadline = time.monotonic() + LIMIT_S
        while not host.host.is_empty:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("does_acknowledge", [True, False])
def test_no_request_gets_the_result_of_another_expert(
    model: RandomModel, socket_folder: Path, does_acknowledge: bool
) -> None:
    """Engines ask by tables that are up to three announcements old, all the time."""
    wanted = replace(settings_in(socket_folder, NUM_SLOTS), ack_timeout_s=0.01)
    with running(model, wanted) as host:
        is_over = threading.Event()
        found: list[tuple[Status, bool]] = []
        engines = [
            threading.Thread(target=_ask, args=(host, seed, does_acknowledge, is_over, found))
            for seed in (1, 2)
        ]
        for engine in engines:
            engine.start()
        try:
            _order(host)
        finally:
            is_over.set()
            for engine in engines:
                engine.join()
        assert {status for status, _ in found} == {Status.OK, Status.OTHER_MAP}
        assert all(is_right for _, is_right in found)
        assert sum(status == Status.OK for status, _ in found) > 50


def _order(host: RunningHost) -> None:
    chance = random.Random(0)
    with host.client("d") as director:
        for number in range(150):
            places = [(layer, slot) for layer in range(NUM_LAYERS) for slot in range(NUM_SLOTS)]
            moves = [
                (*place, chance.randint(E, NUM_EXPERTS - 1))
                for place in chance.sample(places, 2)
            ]
            director.order(number, *moves)
            assert director.ordered() == Ordered(number, (DONE, DONE))
            time.sleep(0.002)


def _ask(
    host: RunningHost,
    seed: int,
    does_acknowledge: bool,
    is_over: threading.Event,
    found: list[tuple[Status, bool]],
) -> None:
    chance, model = random.Random(seed), host.model
    with host.client(f"control {seed}") as control, host.client(f"data {seed}") as data:
        tables = [control.follow()]
        while not is_over.is_set():
            while control.link.is_ready:
                tables = [*tables[-3:], control.table()]
                if does_acknowledge:
                    control.done(tables[-1].version)
            control.hub.wait(0.0)
            table, layer = chance.choice(tables), chance.randrange(NUM_LAYERS)
            slots = np.flatnonzero(table.held[layer] != E).tolist()
            if not slots:
                continue
            pairs = [(chance.randrange(3), chance.choice(slots)) for _ in range(3)]
            answer = data.asked(layer, model.rows, pairs, table.version)
            is_right = True
            if answer.status == Status.OK:
                experts = [(row, int(table.held[layer, slot])) for row, slot in pairs]
                expected = model.expected(layer, experts)
                is_right = np.allclose(answer.rows, expected, rtol=1e-4, atol=1e-5)
            found.append((answer.status, is_right))

"""A host as a process, and engines that are killed and stopped in theirs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.experts.host.__main__ import settings_of
from experts.directory import HostCard
from experts.transport.control import Ordered, Outcome
from experts.transport.messages import Status
from infra.errors import ConfigError
from tests.deployments.experts.on_vllm.host import engine_parts
from tests.deployments.experts.on_vllm.host.engine_client import LIMIT_S, SECRET, Client
from tests.deployments.experts.on_vllm.host.random_model import RandomModel
from tests.experts.transport.peer_process import PeerProcess, playing

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

HELD = [(0, 0, 1), (0, 1, 3), (1, 0, 2)]
DONE = Outcome.DONE


@dataclass
class HostProcess:
    """One that runs."""

    process: subprocess.Popen[bytes]
    card: HostCard
    digest: str

    def client(self, name: str = "engine", where: int = 0) -> Client:
        return Client(self.card.addresses[where], self.digest, name)

    def is_alive(self) -> bool:
        return self.process.poll() is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return RandomModel.write(tmp_path_factory.mktemp("model"))


@contextlib.contextmanager
def started(model: RandomModel, folder: Path) -> Iterator[HostProcess]:
    said = {
        "model_path": str(model.folder),
        "num_slots": 2,
        "dtype": "float32",
        "unix_folder": str(folder),
        "tcp_host": "127.0.0.1",
        "secret": SECRET,
        "link": {"max_frame_bytes": 64 * 1024},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.experts.host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(said).encode() + b"\n")
        process.stdin.flush()
        card = HostCard.of(json.loads(process.stdout.readline()))
        yield HostProcess(process, card, model.reader.digest)
    finally:
        process.kill()
        process.wait(LIMIT_S)
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(scope="module")
def host(model: RandomModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    folder = tmp_path_factory.mktemp("h")
    folder.chmod(0o700)
    with started(model, folder) as found:
        with found.client("director") as director:
            director.fill(*HELD)
        yield found
        assert found.is_alive()


@contextlib.contextmanager
def engine(host: HostProcess, part: Callable[..., None], where: int) -> Iterator[PeerProcess]:
    with playing(part, host.card.addresses[where]) as peer:
        peer.tell(host.digest)
        yield peer


def check_good(client: Client, model: RandomModel) -> None:
    answer = client.asked(0, model.rows, [(0, 0), (2, 1)], 2)
    assert answer.status == Status.OK
    expected = model.expected(0, [(0, 1), (2, 3)])
    np.testing.assert_allclose(answer.rows, expected, rtol=1e-4, atol=1e-5)


def num_engines(client: Client) -> int:
    return client.report().num_engines


def waits_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_engines_are_served_at_once_over_both_ways(
    host: HostProcess, model: RandomModel
) -> None:
    with host.client(where=0) as near, host.client(where=1) as far:
        for _ in range(20):
            for client in (near, far):
                client.ask(0, model.rows, [(0, 0), (2, 1)], 2)
            for client in (near, far):
                answer = client.answer()
                expected = model.expected(0, [(0, 1), (2, 3)])
                np.testing.assert_allclose(answer.rows, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", [0, 1])
def test_an_engine_that_is_killed_is_forgotten(
    host: HostProcess, model: RandomModel, where: int
) -> None:
    with host.client() as other:
        with engine(host, engine_parts.ask_until_killed, where) as peer:
            assert peer.told() == "works"
            assert num_engines(other) == 1
            check_good(other, model)
            peer.signal(signal.SIGKILL)
            waits_for(lambda: num_engines(other) == 0)
        check_good(other, model)


@pytest.mark.parametrize("where", [0, 1])
def test_an_engine_that_dies_with_requests_under_way_is_forgotten(
    host: HostProcess, model: RandomModel, where: int
) -> None:
    with host.client() as other:
        with engine(host, engine_parts.die_with_a_request_under_way, where) as peer:
            assert peer.told() == "asked"
            peer.join()
            waits_for(lambda: num_engines(other) == 0)
        check_good(other, model)


@pytest.mark.parametrize("where", [0, 1])
def test_an_engine_that_is_stopped_holds_up_nobody(
    host: HostProcess, model: RandomModel, where: int
) -> None:
    with host.client() as other:
        with engine(host, engine_parts.ask_without_reading, where) as peer:
            assert peer.told() == "asked"
            peer.signal(signal.SIGSTOP)
            # It follows: an order waits for it, no longer than it may.
            other.order(3, (1, 0, 2), (1, 1, 0))
            assert other.ordered() == Ordered(3, (DONE, DONE))
            waits: list[float] = []
            for _ in range(50):
                began_s = time.monotonic()
                other.asked(0, model.rows, [(0, 0)], 2)
                waits.append(time.monotonic() - began_s)
            assert sorted(waits)[25] < 0.2
        check_good(other, model)
        other.order(4, (1, 1, -1))
        assert other.ordered() == Ordered(4, (DONE,))


def _closes_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _sends_sigterm(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("end", [_closes_stdin, _sends_sigterm])
def test_a_host_ends_when_it_is_told_or_its_parent_is_gone(
    model: RandomModel, socket_folder: Path, end: Callable[[Any], None]
) -> None:
    with started(model, socket_folder) as host, host.client() as client:
        client.fill(*HELD)
        end(host.process)
        assert client.is_hung_up_on()
        assert host.process.wait(LIMIT_S) == 0
        assert list(socket_folder.iterdir()) == []


def test_settings_that_cannot_be_say_so(model: RandomModel, socket_folder: Path) -> None:
    fields = {"num_slots": 0, "dtype": "float32", "unix_folder": str(socket_folder)}
    with pytest.raises(ConfigError, match="at least 1 slot"):
        settings_of(fields).check()
    assert SECRET not in repr(settings_of(fields | {"secret": SECRET}))

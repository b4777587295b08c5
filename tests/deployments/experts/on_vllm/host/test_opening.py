"""A host is opened by a model's folder, or says what is wrong."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.experts.host.host import ExpertHost
from deployments.link_hosts import host as link_host
from experts.transport.hub import Hub
from infra.errors import ConfigError
from tests.deployments.experts.on_vllm.host.random_model import RandomModel
from tests.deployments.experts.on_vllm.host.running_host import settings_in

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return RandomModel.write(tmp_path_factory.mktemp("model"))


def test_a_host_has_a_name_and_addresses_of_its_own(
    model: RandomModel, socket_folder: Path
) -> None:
    hosts = [ExpertHost.open(model.folder, settings_in(socket_folder)) for _ in range(2)]
    try:
        for host in hosts:
            near, far = host.addresses
            assert near == f"unix://{socket_folder}/{host.host}"
            assert far.startswith("tcp://127.0.0.1:")
            assert host.report().host == host.host
        assert len({address for host in hosts for address in host.addresses}) == 4
    finally:
        for host in hosts:
            host.close()
    assert list(socket_folder.iterdir()) == []


def test_a_host_without_other_nodes_needs_no_secret(
    model: RandomModel, socket_folder: Path
) -> None:
    wanted = replace(settings_in(socket_folder), tcp_host=None, secret=None)
    host = ExpertHost.open(model.folder, wanted)
    assert host.addresses == (f"unix://{socket_folder}/{host.host}",)
    host.close()
    host.close()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"num_slots": 0}, "at least 1 slot"),
        ({"num_threads": 0}, "at least 1 thread"),
        ({"num_threads": 2, "cores": [0]}, "name as many cores as threads"),
        ({"secret": None}, "need the cluster's secret"),
        ({"tcp_host": "no host"}, "cannot listen at"),
        ({"num_slots": 2**40}, "give the host fewer slots"),
    ],
)
def test_settings_that_cannot_be_are_the_operators(
    model: RandomModel, socket_folder: Path, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        ExpertHost.open(model.folder, replace(settings_in(socket_folder), **changed))
    assert list(socket_folder.iterdir()) == []


def test_a_folder_without_a_model_is_the_operators(tmp_path: Path, socket_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no model's configuration"):
        ExpertHost.open(tmp_path, settings_in(socket_folder))


def test_a_host_that_is_closed_before_it_runs_does_not_run(
    model: RandomModel, socket_folder: Path
) -> None:
    host = ExpertHost.open(model.folder, settings_in(socket_folder))
    host.close()
    host.run()
    assert host.failure is None


def test_what_ends_the_loop_is_known_and_everything_given_back(
    model: RandomModel, socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Hub, timeout_s: float) -> None:
        raise OSError("too many files")

    monkeypatch.setattr(link_host.log, "disabled", True)
    monkeypatch.setattr(Hub, "wait", fail)
    host = ExpertHost.open(model.folder, settings_in(socket_folder))
    thread = threading.Thread(target=host.run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert str(host.failure) == "too many files"
    assert list(socket_folder.iterdir()) == []
    host.close()
    host.check_invariants()

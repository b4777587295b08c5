"""What tests of every room share: where the repository is."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# A busy machine makes an example slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A shell that runs the tests in the background has it ignored, and the programs that they
# start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


class ByCluster(LoadScopeScheduling):  # type: ignore[misc]
    """Gives tests that share a cluster to one worker: no second one may have its name."""

    def _split_scope(self, nodeid: str) -> str:
        return cluster_of(nodeid) or super()._split_scope(nodeid)


def cluster_of(nodeid: str) -> str | None:
    """The file in `tests/cluster/`, or the folder there, whose tests share a cluster.

    None elsewhere. (The marks of `--dist loadgroup` reach no scheduler from pytest 9.2 on.)
    """
    parts = nodeid.split("::", maxsplit=1)[0].split("/")
    return "/".join(parts[:3]) if parts[:2] == ["tests", "cluster"] else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByCluster | None:
    return ByCluster(config, log) if config.getvalue("dist") == "loadscope" else None

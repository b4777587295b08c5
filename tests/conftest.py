"""What tests of every room share: where the repository is, and how they are run."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--core-each",
        action="store_true",
        help="Bind each worker, and what its tests start, to a core. Threads of two engines "
        "that wait busily on the same cores take turns with each other: a step takes ten "
        "times as long.",
    )


def pytest_configure(config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and config.getoption("core_each"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that are given most time come first, so that none of them is left at the end."""
    if not config.getoption("core_each"):
        return
    most: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        most[item.path] = max(most.get(item.path, 0.0), float(mark.args[0]) if mark else 0.0)
    items.sort(key=lambda item: -most[item.path])

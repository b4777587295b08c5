"""A model that several clusters serve, and which tests share a cluster."""

from pathlib import Path

import pytest

from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR
from tests.builders.small_llama import write_small_llama

_FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of one file, or of one folder beside it, to one worker.

    They share a cluster, whose name no second one may have.
    """
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            group = item.path.relative_to(_FOLDER).parts[0]
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the GGUF file, which has been converted: no cluster waits for that."""
    path = str(write_small_llama(tmp_path_factory.mktemp("model") / "small-llama.gguf"))
    resolve_model(path, STATE_DIR)
    return path

"""What several clusters serve, and whom they tell of it."""

from collections.abc import Iterator

import pytest

from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR
from tests.builders.otlp_receiver import OtlpReceiver, receiving
from tests.builders.small_llama import write_small_llama


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the GGUF file, which has been converted: no cluster waits for that."""
    path = str(write_small_llama(tmp_path_factory.mktemp("model") / "small-llama.gguf"))
    resolve_model(path, STATE_DIR)
    return path


@pytest.fixture(scope="module")
def traces() -> Iterator[tuple[OtlpReceiver, str]]:
    """A receiver of spans, and its endpoint."""
    with receiving() as receiver_and_endpoint:
        yield receiver_and_endpoint

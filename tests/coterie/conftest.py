"""A fake cluster for each test, and clients of it."""

from collections.abc import Iterator

import pytest

from coterie import Client
from tests.builders.fake_inference import FakeInference, serving


@pytest.fixture
def fake() -> FakeInference:
    return FakeInference()


@pytest.fixture
def address(fake: FakeInference) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """Without retries: a failure is what the fake says it is."""
    with Client(address, max_retries=0) as client:
        yield client

"""What tests of every room share: where the repository is."""

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

"""The servers that the index's tests run against."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.metadata_server import Program, Server, debian_redis, running, valkey


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path must stay under 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="ix-") as name:
        yield Path(name)


@pytest.fixture
def redis_program() -> Program:
    program = debian_redis()
    if isinstance(program, str):
        pytest.skip(program)
    return program


@pytest.fixture(params=["valkey", "redis"])
def program(request: pytest.FixtureRequest) -> Program:
    if request.param == "valkey":
        return valkey()
    redis_program: Program = request.getfixturevalue("redis_program")
    return redis_program


@pytest.fixture
def server(program: Program, short_folder: Path) -> Iterator[Server]:
    """Valkey and Redis, each alone on a Unix socket."""
    with running(program, short_folder) as server:
        yield server


@pytest.fixture
def valkey_server(short_folder: Path) -> Iterator[Server]:
    with running(valkey(), short_folder) as server:
        yield server

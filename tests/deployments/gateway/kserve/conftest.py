"""The KServe door on a server of its own, a fake service behind it."""

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from deployments.gateway.kserve.door import KServeDoor
from deployments.kserve.grpc_service_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from tests.builders.fake_service import FakeService, text_deltas


@pytest.fixture
def service() -> FakeService:
    return FakeService(text_deltas("Hel", "lo"))


@pytest_asyncio.fixture
async def address(service: FakeService) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(KServeDoor(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)
    service.check_invariants()

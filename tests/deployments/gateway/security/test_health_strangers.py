"""What health checks tell to those who have no key."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from deployments.gateway.rpc.health import INFERENCE, HealthDoor
from deployments.gateway.security.grpc_guard import GrpcGuard
from deployments.gateway.security.guard import Guard
from deployments.gateway.security.key_file import KeyFile
from tests.builders.fake_service import FakeService
from tests.builders.health_client import about, health_stub
from tests.deployments.gateway.security.conftest import Keys

MODEL = f"{INFERENCE}/tiny"
RESPONSE = health_pb2.HealthCheckResponse


@pytest.fixture
def file(keys: Keys) -> KeyFile:
    return KeyFile(keys.file)


@pytest_asyncio.fixture
async def door(service: FakeService) -> AsyncIterator[HealthDoor]:
    made = HealthDoor(service, max_anonymous_watches=2)
    yield made
    made.check_invariants()


@pytest_asyncio.fixture
async def stub(door: HealthDoor, file: KeyFile) -> AsyncIterator[Any]:
    async with health_stub(door, [GrpcGuard(Guard(file))]) as found:
        yield found


def with_key(key: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", key),)


async def first_status(stub: Any, name: str, metadata: Any = ()) -> int:
    call = stub.Watch(about(name), metadata=metadata, timeout=10)
    status = int((await call.read()).status)
    call.cancel()
    return status


@pytest.mark.parametrize("key", ["", "ct-unknown"])
async def test_a_stranger_is_told_of_services_but_of_no_model_by_its_name(
    stub: Any, key: str
) -> None:
    assert (await stub.Check(about(""), metadata=with_key(key))).status == RESPONSE.SERVING
    codes, details = [], []
    for name in (MODEL, f"{INFERENCE}/no-such-model"):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(about(name), metadata=with_key(key))
        codes.append(failed.value.code())
        details.append(failed.value.details())
        status = await first_status(stub, name, with_key(key))
        assert status == RESPONSE.SERVICE_UNKNOWN
    assert codes == [grpc.StatusCode.NOT_FOUND] * 2
    assert details[0] == details[1]


async def test_a_tenant_s_key_opens_the_health_of_models(stub: Any, keys: Keys) -> None:
    metadata = with_key(keys.tenant)
    assert (await stub.Check(about(MODEL), metadata=metadata)).status == RESPONSE.SERVING
    assert await first_status(stub, MODEL, metadata) == RESPONSE.SERVING


async def test_a_priority_that_does_not_exist_makes_no_stranger_of_a_tenant(
    stub: Any, keys: Keys
) -> None:
    metadata = (*with_key(keys.tenant), ("x-priority", "urgent"))
    assert (await stub.Check(about(MODEL), metadata=metadata)).status == RESPONSE.SERVING


async def test_a_watch_whose_key_is_revoked_knows_the_model_no_more(
    stub: Any, keys: Keys, door: HealthDoor, file: KeyFile
) -> None:
    call = stub.Watch(about(MODEL), metadata=with_key(keys.tenant), timeout=10)
    assert (await call.read()).status == RESPONSE.SERVING
    keys.file.write_text("keys: []\n")
    file.refresh()
    door.refresh()
    assert (await call.read()).status == RESPONSE.SERVICE_UNKNOWN
    call.cancel()


async def test_watches_without_a_key_are_bounded_and_those_with_one_are_not(
    stub: Any, keys: Keys
) -> None:
    calls = [stub.Watch(about(""), timeout=10) for _ in range(2)]
    for call in calls:
        assert (await call.read()).status == RESPONSE.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await first_status(stub, "")
    assert dict(refused.value.trailing_metadata())["coterie-error"] == "overloaded"
    assert await first_status(stub, "", with_key(keys.tenant)) == RESPONSE.SERVING
    for call in calls:
        call.cancel()

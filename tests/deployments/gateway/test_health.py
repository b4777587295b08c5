"""The health door: who can be asked for, and what watchers are told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from deployments.gateway.rpc.health import INFERENCE, KSERVE, HealthDoor
from tests.builders.fake_service import FakeService, model_card
from tests.builders.health_client import about, health_stub

SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)
ALL = ("", "coterie.v1.Inference", "inference.GRPCInferenceService")


@pytest.fixture
def service() -> FakeService:
    cards = [model_card("warm"), model_card("org/cold", num_ready_replicas=0)]
    return FakeService(cards=cards)


@pytest_asyncio.fixture
async def door(service: FakeService) -> HealthDoor:
    return HealthDoor(service)


@pytest_asyncio.fixture
async def stub(door: HealthDoor) -> AsyncIterator[Any]:
    async with health_stub(door) as found:
        yield found


def test_the_services_are_known_by_their_full_names() -> None:
    assert {"", INFERENCE, KSERVE} == set(ALL)


@pytest.mark.parametrize("name", [*ALL, "coterie.v1.Inference/warm"])
async def test_what_can_answer_serves(stub: Any, name: str) -> None:
    assert (await stub.Check(about(name))).status == SERVING


async def test_a_model_without_replicas_does_not_serve_though_others_do(stub: Any) -> None:
    found = await stub.Check(about("coterie.v1.Inference/org/cold"))
    assert found.status == NOT_SERVING


async def test_a_model_that_a_request_would_bring_serves(
    service: FakeService, stub: Any
) -> None:
    service.cards = [model_card("asleep", num_ready_replicas=0, scales_to_zero=True)]
    for name in (*ALL, "coterie.v1.Inference/asleep"):
        assert (await stub.Check(about(name))).status == SERVING


@pytest.mark.parametrize("name", ALL)
async def test_nothing_serves_before_the_first_model_is_ready(
    service: FakeService, stub: Any, name: str
) -> None:
    service.cards = service.cards[1:]
    assert (await stub.Check(about(name))).status == NOT_SERVING


@pytest.mark.parametrize("name", ["other", "coterie.v1.Inference/", "coterie.v1.Inference/x"])
async def test_an_unknown_name_is_not_found(stub: Any, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Check(about(name))
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_are_told_each_change_and_nothing_else(
    service: FakeService, door: HealthDoor, stub: Any
) -> None:
    whole, model = stub.Watch(about("")), stub.Watch(about("coterie.v1.Inference/org/cold"))
    unknown = stub.Watch(about("other"))
    assert [(await w.read()).status for w in (whole, model, unknown)] == [
        SERVING,
        NOT_SERVING,
        UNKNOWN,
    ]
    service.cards = [model_card("warm"), model_card("org/cold")]
    door.refresh()
    assert (await model.read()).status == SERVING
    service.cards = [model_card(c.name, num_ready_replicas=0) for c in service.cards]
    door.refresh()
    assert [(await w.read()).status for w in (whole, model)] == [NOT_SERVING, NOT_SERVING]


async def test_draining_is_told_to_watchers_and_ends_their_streams(
    door: HealthDoor, stub: Any
) -> None:
    watches = [stub.Watch(about(name)) for name in ALL]
    assert [(await w.read()).status for w in watches] == [SERVING] * 3
    door.drain()
    for watch in watches:
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK
    assert (await stub.Check(about(""))).status == NOT_SERVING


async def test_a_watcher_that_leaves_is_forgotten(door: HealthDoor, stub: Any) -> None:
    before = len(asyncio.all_tasks())
    watch = stub.Watch(about(""))
    await watch.read()
    watch.cancel()
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before:
            door.refresh()
            await asyncio.sleep(0.01)

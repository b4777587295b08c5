"""Both doors as a gateway replica opens them: reflection, health, draining, limits."""

import asyncio
from typing import Any, cast

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deployments.gateway.checks import MAX_METADATA_BYTES, MAX_STREAMS
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService, text_deltas
from tests.builders.reflection_client import called_by_reflection, listed_services


async def test_a_reflection_client_finds_the_services_and_calls_one() -> None:
    async with opened(FakeService(text_deltas("Hel", "lo")), reflection=True) as (
        _,
        address,
        _,
    ):
        assert await asyncio.to_thread(listed_services, address) == [
            "coterie.v1.Inference",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
        ]
        chunks = await asyncio.to_thread(
            lambda: list(
                called_by_reflection(address, "coterie.v1.Inference", "Generate", text="abc")
            )
        )
        assert [chunk.text for chunk in chunks] == ["Hel", "lo"]


async def test_without_reflection_nothing_is_shown() -> None:
    async with opened(FakeService()) as (_, address, _):
        with pytest.raises(grpc.RpcError) as failed:
            await asyncio.to_thread(listed_services, address)
        assert cast(grpc.Call, failed.value).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_watcher_does_not_hold_up_the_end_of_the_doors() -> None:
    async with (
        opened(FakeService()) as (doors, address, http),
        grpc.aio.insecure_channel(address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"http://{http}/health")).status_code == 200
        async with asyncio.timeout(3):
            closing = asyncio.create_task(doors.close())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await closing


async def test_metadata_over_its_limit_is_refused_and_large_one_is_not() -> None:
    async with (
        opened(FakeService()) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        large = (("x-trace", "a" * (MAX_METADATA_BYTES // 2)),)
        assert (await check(health_pb2.HealthCheckRequest(), metadata=large)).status
        too_large = (("x-trace", "a" * MAX_METADATA_BYTES),)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await check(health_pb2.HealthCheckRequest(), metadata=too_large)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_beyond_the_limit_wait_until_others_have_ended() -> None:
    service = FakeService()
    async with (
        opened(service) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch
        open_ones = [watch(health_pb2.HealthCheckRequest()) for _ in range(MAX_STREAMS)]
        await asyncio.gather(*(each.read() for each in open_ones))
        late = asyncio.ensure_future(watch(health_pb2.HealthCheckRequest()).read())
        await asyncio.sleep(0.1)
        assert not late.done()
        open_ones[0].cancel()
        async with asyncio.timeout(5):
            assert (await late).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "method",
    [
        "/coterie.v1.Inference/Generate",
        "/coterie.v1.Inference/GenerateUnary",
        "/inference.GRPCInferenceService/ModelInfer",
        "/grpc.health.v1.Health/Watch",
    ],
)
async def test_bytes_that_are_no_message_are_the_client_s_mistake(method: str) -> None:
    async with (
        opened(FakeService()) as (_, address, _http),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.unary_stream(method)
        with pytest.raises(grpc.RpcError) as refused:
            await call(b"\xff" * 20, timeout=10).read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message" in str(refused.value.details())

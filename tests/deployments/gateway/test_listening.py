"""Where a gateway listens, what is said if it cannot, and what if it no longer does."""

import asyncio
import socket
from contextlib import closing

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deployments.gateway.doors import Doors
from deployments.gateway.listener import shared_socket
from deployments.local_cluster import free_ports
from deployments.settings import GatewaySection
from infra.errors import ConfigError, CoterieError
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService

# Of a net for documents: no machine has it.
ELSEWHERE = "192.0.2.1"


def _has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 on loopback")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_both_doors_listen_on_an_ipv6_address(host: str) -> None:
    async with opened(FakeService(), host=host) as (_, address, http):
        port, http_port = (each.rsplit(":", 1)[1] for each in (address, http))
        async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest(), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"http://[::1]:{http_port}/health")).status_code == 200


async def _cannot_open(**section: object) -> str:
    grpc_port, http_port = free_ports(2)
    ports = {"grpc_port": grpc_port, "http_port": http_port, "allow_anonymous": True}
    doors = Doors(GatewaySection.model_validate(ports | section), FakeService())
    with pytest.raises(ConfigError) as refused:
        await doors.open()
    await doors.close()
    return refused.value.message


async def test_an_address_of_another_machine_is_not_called_a_taken_port() -> None:
    message = await _cannot_open(host=ELSEWHERE)
    assert message.startswith(f"gateway.grpc_port: cannot listen on {ELSEWHERE}:")
    assert "Cannot assign requested address" in message
    with pytest.raises(ConfigError, match=r"key: cannot listen on 192\.0\.2\.1:80: Cannot ass"):
        shared_socket(ELSEWHERE, 80, "key")


@pytest.mark.parametrize("key", ["grpc_port", "http_port"])
async def test_a_port_of_another_program_is_called_taken(key: str) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = await _cannot_open(**{key: port})
    assert message.startswith(f"gateway.{key}: port {port} is taken by another program")


async def test_doors_whose_http_server_has_died_are_not_healthy() -> None:
    async with opened(FakeService()) as (doors, _, _):
        doors.check_health()
        assert doors._http_task is not None
        doors._http_task.cancel()
        await asyncio.wait([doors._http_task])
        with pytest.raises(CoterieError, match="HTTP server"):
            doors.check_health()


async def test_doors_that_are_closed_are_healthy() -> None:
    async with opened(FakeService()) as (doors, _, _):
        await doors.close()
        doors.check_health()

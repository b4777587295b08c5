"""A health door behind a real gRPC server, and a client of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deployments.gateway.rpc.health import HealthDoor


@asynccontextmanager
async def health_stub(
    door: HealthDoor, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> AsyncIterator[Any]:
    """A stub of the health service, for the time of the block."""
    server = grpc.aio.server(interceptors=interceptors)
    health_pb2_grpc.add_HealthServicer_to_server(door, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield health_pb2_grpc.HealthStub(channel)
    finally:
        await server.stop(0)


def about(name: str) -> health_pb2.HealthCheckRequest:
    """Asks for one service."""
    return health_pb2.HealthCheckRequest(service=name)

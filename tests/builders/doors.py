"""Both doors of a gateway on free ports of loopback."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from deployments.gateway.doors import Doors
from deployments.gateway.service import InferenceService
from deployments.local_cluster import free_ports
from deployments.settings import GatewaySection


@asynccontextmanager
async def opened(
    service: InferenceService, tenants: Collection[str] | None = None, **section: Any
) -> AsyncIterator[tuple[Doors, str, str]]:
    """The doors, the gRPC address and HOST:PORT of the HTTP door."""
    grpc_port, http_port = free_ports(2)
    ports = {"grpc_port": grpc_port, "http_port": http_port, "drain_timeout_s": 5.0}
    doors = Doors(GatewaySection.model_validate(ports | section), service, tenants)
    await doors.open()
    try:
        yield doors, f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}"
    finally:
        await doors.close()

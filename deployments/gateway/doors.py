"""The doors of one gateway replica: servers of its own, for gRPC and for HTTP.

They listen on ports that all gateway replicas of a node share (SO_REUSEPORT: the
kernel spreads connections over them).
"""

import asyncio
from collections.abc import Collection

import grpc
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coterie.v1 import inference_pb2_grpc
from deployments.gateway.checks import MAX_METADATA_BYTES, MAX_STREAMS
from deployments.gateway.http.protocol import limited_http_protocol
from deployments.gateway.http_door import http_app
from deployments.gateway.kserve.door import KServeDoor
from deployments.gateway.listener import check_port, grpc_address, shared_socket
from deployments.gateway.rpc.door import GrpcDoor
from deployments.gateway.rpc.garbled import GarbledRequests
from deployments.gateway.rpc.health import INFERENCE, KSERVE, HealthDoor
from deployments.gateway.security.door_security import DoorSecurity
from deployments.gateway.security.http_guard import METRICS_PATH, Endpoint, operators_only
from deployments.gateway.service import InferenceService
from deployments.gateway.telemetry.metrics_page import MetricsPage
from deployments.kserve import grpc_service_pb2_grpc
from deployments.settings import GatewaySection
from infra.errors import ConfigError, CoterieError

_MAX_PENDING = 100_000


class Doors:
    """The gRPC and the HTTP server of one gateway replica."""

    def __init__(
        self,
        section: GatewaySection,
        service: InferenceService,
        known_tenants: Collection[str] | None = None,
        metrics_page: MetricsPage | None = None,
    ) -> None:
        """Raises ConfigError where keys or certificates cannot be read; keys may be
        for the `known_tenants` alone, None is any."""
        self._section = section
        self._security = DoorSecurity(section, known_tenants)
        limit = section.max_message_bytes
        self._grpc = grpc.aio.server(
            interceptors=[self._security.grpc_interceptor(), GarbledRequests()],
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                # From 1,000 calls on that wait for Python to take them, gRPC would end
                # some at random, as CANCELLED and without a hint.
                ("grpc.server.max_pending_requests", _MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.server_handshake_timeout_ms", int(section.client_timeout_s * 1000)),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        inference_pb2_grpc.add_InferenceServicer_to_server(
            GrpcDoor(service, section.client_timeout_s), self._grpc
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            KServeDoor(service, section.client_timeout_s), self._grpc
        )
        self.health = HealthDoor(service)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._grpc)
        if section.reflection:
            self._add_reflection()
        http = http_app(service, section, self._security.guard)
        if metrics_page is not None:
            http.add_route(METRICS_PATH, self._guarded(metrics_page))
        self._http = uvicorn.Server(
            uvicorn.Config(
                http,
                # uvicorn's own would close the handlers of Serve's log.
                log_config=None,
                http=limited_http_protocol(section.client_timeout_s),
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_keep_alive=section.keep_alive_s,
                ssl_context_factory=self._security.http_context_factory(),
                timeout_graceful_shutdown=int(section.drain_timeout_s),
            )
        )
        self._http_task: asyncio.Task[None] | None = None
        self._is_closing = False

    async def open(self) -> None:
        """Listen. Raises ConfigError where a port cannot be had, before any is served."""
        section = self._section
        self._add_grpc_port(section.host, section.grpc_port)
        listener = shared_socket(section.host, section.http_port, "gateway.http_port")
        await self._grpc.start()
        self._http_task = asyncio.create_task(self._http.serve([listener]))
        self._security.start()

    def check_health(self) -> None:
        """Raises CoterieError where the HTTP server has ended though nobody closed it."""
        task = self._http_task
        if self._is_closing or task is None or not task.done():
            return
        cause = None if task.cancelled() else task.exception()
        raise CoterieError("the gateway's HTTP server has ended") from cause

    async def close(self) -> None:
        """Take no new requests; let open ones run on for the drain time."""
        self._is_closing = True
        self.health.drain()
        self._http.should_exit = True
        await self._grpc.stop(grace=self._section.drain_timeout_s)
        self._security.stop()
        if self._http_task is not None:
            await asyncio.wait([self._http_task], timeout=self._section.drain_timeout_s)

    def _guarded(self, page: MetricsPage) -> Endpoint:
        return page.answer if self._section.open_metrics else operators_only(page.answer)

    def _add_grpc_port(self, host: str, port: int) -> None:
        try:
            self._security.add_grpc_port(self._grpc, grpc_address(host, port))
        except RuntimeError as error:
            # gRPC does not say why; the kernel does.
            check_port(host, port, "gateway.grpc_port")
            raise ConfigError(f"gateway.grpc_port: {error}") from error

    def _add_reflection(self) -> None:
        from grpc_reflection.v1alpha import reflection  # noqa: PLC0415

        names = [
            INFERENCE,
            KSERVE,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, self._grpc)

"""The Serve deployment of the gateway: opens both doors on its node.

The doors are servers of the gateway's own, on ports that all gateway replicas
of a node share (SO_REUSEPORT: the kernel spreads connections over them).
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray.serve.handle import DeploymentHandle

from coterie.v1 import inference_pb2_grpc
from deployments.gateway import replica_feed
from deployments.gateway.admission_gate import AdmissionGate
from deployments.gateway.cluster_service import ClusterService
from deployments.gateway.grpc_door import GrpcDoor
from deployments.gateway.health import INFERENCE, KSERVE, HealthDoor
from deployments.gateway.http_door import http_app
from deployments.gateway.kserve_door import KServeDoor
from deployments.gateway.served_model import ServedModel
from deployments.gateway.tokenizer import Tokenizer
from deployments.kserve import grpc_service_pb2_grpc
from deployments.models.resolve import resolve_model
from deployments.settings import GatewaySection, ModelSection
from infra.errors import ConfigError
from router.admission import Admission
from router.settings import AdmissionSection, RouterSection, TenantSection
from router.tenants import Tenants

log = logging.getLogger("ray.serve")


class Doors:
    """The gRPC and the HTTP server of one gateway replica."""

    def __init__(self, section: GatewaySection, service: ClusterService) -> None:
        self._section = section
        limit = section.max_message_bytes
        self._grpc = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limit),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            )
        )
        inference_pb2_grpc.add_InferenceServicer_to_server(GrpcDoor(service), self._grpc)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            KServeDoor(service), self._grpc
        )
        self.health = HealthDoor(service)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._grpc)
        if section.reflection:
            self._add_reflection()
        self._http = uvicorn.Server(
            uvicorn.Config(
                http_app(service, section),
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=int(section.drain_timeout_s),
            )
        )
        self._http_task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen. Raises ConfigError where a port is taken."""
        section = self._section
        try:
            self._grpc.add_insecure_port(f"{section.host}:{section.grpc_port}")
        except RuntimeError as error:
            raise _port_taken("grpc_port", section.grpc_port) from error
        await self._grpc.start()
        listener = _shared_socket(section.host, section.http_port)
        self._http_task = asyncio.create_task(self._http.serve([listener]))

    async def close(self) -> None:
        """Take no new requests; let open ones run on for the drain time."""
        self.health.drain()
        self._http.should_exit = True
        await self._grpc.stop(grace=self._section.drain_timeout_s)
        if self._http_task is not None:
            await asyncio.wait([self._http_task], timeout=self._section.drain_timeout_s)

    def _add_reflection(self) -> None:
        from grpc_reflection.v1alpha import reflection  # noqa: PLC0415

        names = [
            INFERENCE,
            KSERVE,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, self._grpc)


class Gateway:
    """Translates between Serve's life cycle and the doors'.

    Made a Serve deployment in `deployments.app`.
    """

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self,
        sections: dict[str, Any],
        link: dict[str, str],
        engines: dict[str, DeploymentHandle[Any]],
    ) -> None:
        section = GatewaySection.model_validate(sections["gateway"])
        models = [ModelSection.model_validate(m) for m in sections["models"]]
        router = RouterSection.model_validate(sections["router"])
        self._gate = _gate(sections, router.replica_wait_s, section.num_replicas)
        self._served = [
            ServedModel(m, await asyncio.to_thread(_tokenizer, m, link), link["token"], router)
            for m in models
        ]
        for served in self._served:
            served.on_change(partial(_set_places, self._gate, served))
            _follow(served, engines[served.section.name])
        self._doors = Doors(section, ClusterService(section, self._served, self._gate))
        for served in self._served:
            served.on_change(self._doors.health.refresh)
        await self._doors.open()

    async def status(self) -> dict[str, Any]:
        """Process id; ready engine replicas and waiting requests by model."""
        names = [served.section.name for served in self._served]
        ready = {s.section.name: s.num_ready_replicas for s in self._served}
        held = {name: self._gate.num_held(name) for name in names}
        return {"pid": os.getpid(), "num_ready_replicas": ready, "num_held": held}

    async def __del__(self) -> None:
        await self._doors.close()
        await asyncio.gather(*(served.close() for served in self._served))


def _gate(
    sections: Mapping[str, Any], replica_wait_s: float, num_gateways: int
) -> AdmissionGate:
    section = AdmissionSection.model_validate(sections["admission"])
    tenants = [TenantSection.model_validate(t) for t in sections["tenants"]]
    admission = Admission(section, Tenants(tenants, num_gateways))
    return AdmissionGate(admission, section, replica_wait_s)


def _set_places(gate: AdmissionGate, served: ServedModel) -> None:
    gate.set_places(served.section.name, served.num_places)


def _tokenizer(model: ModelSection, link: dict[str, str]) -> Tokenizer:
    path = resolve_model(model.model, Path(link["state_dir"])).path
    return Tokenizer.load(path, model.chat_template_file)


def _follow(served: ServedModel, handle: DeploymentHandle[Any]) -> None:
    """Keep the model's replicas up to date, from Serve's pushes."""
    loop = asyncio.get_running_loop()

    def on_replicas(replicas: Mapping[str, replica_feed.Metadata]) -> None:
        loop.call_soon_threadsafe(served.set_replicas, replicas)

    replica_feed.listen(handle.deployment_name, on_replicas)
    # A handle has no router until its first call.
    handle.status.remote()


def _shared_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _port_taken("http_port", port) from error
    listener.listen(2048)
    return listener


def _port_taken(key: str, port: int) -> ConfigError:
    return ConfigError(
        f"gateway.{key}: port {port} is taken by another program; "
        "end it or choose another port in the configuration"
    )

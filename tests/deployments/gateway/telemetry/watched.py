"""A gateway's doors with its telemetry around a service, and clients on them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx2

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc
from deployments.engine.link_server import CallRunner, LinkServer
from deployments.gateway.admission_gate import AdmissionGate
from deployments.gateway.cluster_service import ClusterService
from deployments.gateway.doors import Doors
from deployments.gateway.served_model import ServedModel
from deployments.gateway.service import InferenceService
from deployments.gateway.telemetry.gateway_telemetry import GatewayTelemetry
from deployments.gateway.telemetry.routing_counters import DecisionLogs
from deployments.gateway.tokenizer import Tokenizer
from deployments.local_cluster import free_ports
from deployments.settings import GatewaySection, ModelSection
from infra.telemetry.settings import TelemetrySection
from router.admission import Admission
from router.settings import AdmissionSection, RouterSection
from router.tenants import Tenants

TOKEN = "secret"


@dataclass
class Watched:
    """Both doors' clients; closing the telemetry exports and writes all."""

    grpc: grpc.aio.Channel
    http: httpx2.AsyncClient
    telemetry: GatewayTelemetry

    async def generate(
        self, *metadata: tuple[str, str], **fields: Any
    ) -> tuple[list[pb.OutputChunk], dict[str, str]]:
        """Chunks of a native stream and its trailing metadata."""
        stub = inference_pb2_grpc.InferenceStub(self.grpc)
        request = pb.GenerateRequest(**({"text": "abc"} | fields))
        call = stub.Generate(request, metadata=metadata, timeout=10)
        chunks = [chunk async for chunk in call]
        return chunks, {str(k): str(v) for k, v in await call.trailing_metadata()}

    async def chat(self, *, headers: Any = None, **fields: Any) -> httpx2.Response:
        """One answer of the OpenAI door."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]} | fields
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def metrics(self, accept: str = "") -> httpx2.Response:
        """One scrape of the HTTP door."""
        return await self.http.get("/metrics", headers={"accept": accept})


@asynccontextmanager
async def watched(
    service: InferenceService, logs: DecisionLogs | None = None, **telemetry: Any
) -> AsyncIterator[Watched]:
    """The doors around `service`, on loopback; `telemetry` is the section's keys."""
    grpc_port, http_port = free_ports(2)
    section = GatewaySection(grpc_port=grpc_port, http_port=http_port, drain_timeout_s=5)
    observing = GatewayTelemetry(
        TelemetrySection.model_validate(telemetry), section, TOKEN, f"test-{grpc_port}"
    )
    around = observing.watch(service, logs=logs)
    doors = Doors(section, around, metrics_page=observing.door_page)
    await observing.start()
    await doors.open()
    try:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{http_port}") as http,
        ):
            yield Watched(channel, http, observing)
    finally:
        await doors.close()
        await observing.close()


@asynccontextmanager
async def cluster_service(engine: CallRunner) -> AsyncIterator[ClusterService]:
    """The real service, with a real link to `engine`; a text's tokens are its bytes."""
    server = LinkServer(engine, TOKEN)
    port = await server.start("127.0.0.1")
    served = ServedModel(
        ModelSection(name="tiny", model="some/model"),
        Tokenizer(_Utf8()),
        TOKEN,
        RouterSection(),
    )
    admission = AdmissionSection()
    gate = AdmissionGate(Admission(admission, Tenants()), admission, replica_wait_s=lambda _: 5)
    served.on_change(lambda: gate.set_places("tiny", served.num_places))
    replica = {"address": f"127.0.0.1:{port}", "max_model_len": 2048, "vocab_size": 256}
    served.set_replicas({"replica-0": replica})
    async with asyncio.timeout(5):
        while not served.num_ready_replicas:
            await asyncio.sleep(0.005)
    try:
        yield ClusterService(GatewaySection(), [served], gate)
    finally:
        await served.close()
        await server.stop()


def logs_of(service: ClusterService) -> DecisionLogs:
    """The router's decisions, by model."""
    served = {model.section.name: model for model, _ in service._by_name.values()}
    return {name: model.routing.log for name, model in served.items()}


class _Utf8:
    """What `Tokenizer` needs of a Hugging Face tokenizer."""

    chat_template = None

    def __len__(self) -> int:
        return 256

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode())

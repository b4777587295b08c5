"""Everything that watches the requests of one gateway replica, put together."""

import asyncio
import uuid

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from deployments.gateway import error_feed
from deployments.gateway.listener import shared_socket
from deployments.gateway.security.http_guard import METRICS_PATH
from deployments.gateway.service import InferenceService
from deployments.gateway.telemetry.access_log import AccessLog
from deployments.gateway.telemetry.billing import Billing
from deployments.gateway.telemetry.draft_metrics import Drafts
from deployments.gateway.telemetry.expert_metrics import Latest
from deployments.gateway.telemetry.index_metrics import Indexes
from deployments.gateway.telemetry.metrics import GatewayMetrics, Held
from deployments.gateway.telemetry.metrics_page import MetricsPage, peer_folder
from deployments.gateway.telemetry.observation import Observer
from deployments.gateway.telemetry.observed_service import (
    Around,
    ObservedService,
    nothing_around,
)
from deployments.gateway.telemetry.routing_counters import DecisionLogs
from deployments.settings import GatewaySection
from deployments.types import Door
from infra.telemetry.settings import TelemetrySection
from infra.telemetry.tracing import Tracing
from infra.telemetry.usage_writer import UsageWriter

_EXPORT_TIMEOUT_S = 5.0


class GatewayTelemetry:
    """What the section asks for, around one service.

    `secret` and `app_name` tell the application apart from others on the node.
    """

    def __init__(
        self, section: TelemetrySection, gateway: GatewaySection, secret: str, app_name: str
    ) -> None:
        """Raises ConfigError for a directory or a file that cannot be used."""
        self._section = section
        self._gateway = gateway
        self._folder = peer_folder(secret, app_name)
        self._tracing = Tracing.start(section, "gateway")
        self._usage = (
            UsageWriter(section.usage_dir, section.usage_max_file_bytes)
            if section.usage_dir is not None
            else None
        )
        self._page: MetricsPage | None = None
        self._server: _MetricsServer | None = None
        self._count_answer: error_feed.Listener | None = None

    @property
    def door_page(self) -> MetricsPage | None:
        """What the HTTP door answers at `/metrics`, if it does."""
        return None if self._section.metrics_port is not None else self._page

    def watch(
        self,
        service: InferenceService,
        held: Held | None = None,
        logs: DecisionLogs | None = None,
        indexes: Indexes | None = None,
        experts: Latest | None = None,
        drafts: Drafts | None = None,
    ) -> InferenceService:
        """The service with all observers around it; call it once.

        `held` counts the requests that wait, by model; `logs` have the router's decisions;
        `indexes` are those of the models that have one; `experts` is what the directors of
        expert hosts say, where there are any; `drafts` are the totals of the models that
        have speculation.
        """
        observers: list[Observer] = []
        around: Around = nothing_around
        if self._tracing is not None:
            # First, since the others read the trace's id; loaded only where needed.
            from deployments.gateway.telemetry.request_spans import RequestSpans  # noqa: PLC0415

            ports = self._door_to_port()
            spans = RequestSpans(self._tracing, self._gateway.host, ports, logs or {})
            observers.append(spans)
            around = spans.around_check
        if self._section.metrics:
            metrics = GatewayMetrics(self._section.max_tenant_labels)
            metrics.add_states(service.models, held)
            if logs is not None:
                metrics.add_routing(logs)
            if indexes:
                metrics.add_indexes(indexes)
            if experts is not None:
                metrics.add_experts(experts)
            if drafts:
                metrics.add_drafts(drafts)
            if self._usage is not None:
                usage = self._usage
                metrics.add_losses(lambda: usage.num_lost)
            self._count_answer = metrics.count_answer
            error_feed.listen(self._count_answer)
            self._page = MetricsPage(metrics.registry, self._folder, uuid.uuid4().hex[:8])
            observers.append(metrics)
        if self._usage is not None:
            observers.append(Billing(self._usage, service.model))
        if self._section.access_log:
            observers.append(AccessLog())
        return ObservedService(service, observers, around=around) if observers else service

    async def start(self) -> None:
        """Answer scrapes. Raises ConfigError where the port is taken."""
        if self._page is None:
            return
        await self._page.start()
        if self._section.metrics_port is not None:
            self._server = _MetricsServer(self._page)
            self._server.start(self._section.metrics_host, self._section.metrics_port)

    async def close(self) -> None:
        """Export and write what is left."""
        if self._server is not None:
            await self._server.stop()
        if self._count_answer is not None:
            error_feed.forget(self._count_answer)
        if self._page is not None:
            await self._page.stop()
        if self._usage is not None:
            await asyncio.to_thread(self._usage.close)
        if self._tracing is not None:
            # Where the receiver is away, ending does not wait for it.
            closing = asyncio.ensure_future(asyncio.to_thread(self._tracing.close))
            await asyncio.wait([closing], timeout=_EXPORT_TIMEOUT_S)

    def _door_to_port(self) -> dict[Door, int]:
        grpc_port, http_port = self._gateway.grpc_port, self._gateway.http_port
        return {
            "grpc": grpc_port,
            "kserve": grpc_port,
            "openai": http_port,
            "kserve_http": http_port,
        }


class _MetricsServer:
    """A plain HTTP server with `/metrics` alone."""

    def __init__(self, page: MetricsPage) -> None:
        app = Starlette(routes=[Route(METRICS_PATH, page.answer)])
        config = uvicorn.Config(
            app,
            # uvicorn's own would close the handlers of Serve's log.
            log_config=None,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    def start(self, host: str, port: int) -> None:
        listener = shared_socket(host, port, "telemetry.metrics_port")
        self._task = asyncio.create_task(self._server.serve([listener]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5)

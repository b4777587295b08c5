"""The health door: `grpc.health.v1`, for probes, load balancers and gRPC's own clients.

What can be asked for, by its name:

    ""                                  the gateway: at least one model can answer
    coterie.v1.Inference                the same; so too the KServe service
    coterie.v1.Inference/MODEL          this model or adapter can answer

SERVING and NOT_SERVING follow the same count of ready engine replicas that `/health`
reads. A gateway that drains serves nothing.

Where there are keys, whoever comes without one is told of the three services alone:
models and adapters are not known to strangers by their names.
"""

import asyncio
from collections.abc import AsyncGenerator

from grpc_health.v1 import health_pb2, health_pb2_grpc

from coterie.v1 import inference_pb2
from deployments.gateway.caller import check_caller, current_caller
from deployments.gateway.readiness import is_ready
from deployments.gateway.rpc.answer import Context, abort
from deployments.gateway.service import InferenceService
from deployments.kserve import grpc_service_pb2
from infra.errors import CapacityError, UnauthenticatedError, UnknownModelError
from router.types import ANONYMOUS

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
KSERVE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_Response = health_pb2.HealthCheckResponse
_MODEL_PREFIX = f"{INFERENCE}/"

MAX_ANONYMOUS_WATCHES = 1024
"""Watches that are open at a time and came without a key, for one gateway."""


class HealthDoor(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers from the service's own counts; `refresh` wakes those who watch.

    grpcio's servicer keeps statuses of its own, sets them in a coroutine that waits
    for the slowest watcher, and holds up the end of the server until all have left.
    """

    def __init__(
        self, service: InferenceService, max_anonymous_watches: int = MAX_ANONYMOUS_WATCHES
    ) -> None:
        """Further watches without a key are refused until one has ended."""
        self._service = service
        self._max_anonymous = max_anonymous_watches
        self._num_anonymous = 0
        self._is_draining = False
        self._has_changed = asyncio.Event()

    def refresh(self) -> None:
        """The count of some model's ready replicas has changed. Never waits."""
        self._has_changed.set()
        self._has_changed = asyncio.Event()

    def drain(self) -> None:
        """Serve nothing from here on; watchers are told so, and their streams end."""
        self._is_draining = True
        self.refresh()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status; NOT_FOUND for a name that stands for nothing here."""
        status = self._status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            await abort(context, UnknownModelError("no such service or model"))
        return _Response(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """The status, and then each other one that it turns to."""
        has_key = current_caller().tenant != ANONYMOUS
        if not has_key and self._num_anonymous >= self._max_anonymous:
            await abort(context, CapacityError("too many watch without a key; try again"))
        self._num_anonymous += not has_key
        try:
            async for status in self._statuses(request.service):
                yield _Response(status=status)
        finally:
            self._num_anonymous -= not has_key

    def check_invariants(self) -> None:
        """No more watch without a key than may."""
        assert 0 <= self._num_anonymous <= self._max_anonymous

    async def _statuses(self, name: str) -> AsyncGenerator[int, None]:
        told, is_last = None, False
        while not is_last:
            # Looked at before the status, so that no later change is missed.
            has_changed, is_last = self._has_changed, self._is_draining
            status = self._status(name)
            if status != told:
                told = status
                yield status
            if not is_last:
                await has_changed.wait()

    def _status(self, name: str) -> int:
        if name in ("", INFERENCE, KSERVE):
            can_answer = is_ready(self._service)
        elif name.startswith(_MODEL_PREFIX) and name != _MODEL_PREFIX and _may_ask_for_models():
            try:
                card = self._service.model(name.removeprefix(_MODEL_PREFIX))
            except UnknownModelError:
                return int(_Response.SERVICE_UNKNOWN)
            can_answer = card.can_answer
        else:
            return int(_Response.SERVICE_UNKNOWN)
        can_answer = can_answer and not self._is_draining
        return int(_Response.SERVING if can_answer else _Response.NOT_SERVING)


def _may_ask_for_models() -> bool:
    """Whoever asks has a key, which may have been revoked while it watched."""
    try:
        check_caller()
    except UnauthenticatedError:
        return False
    return current_caller().is_known

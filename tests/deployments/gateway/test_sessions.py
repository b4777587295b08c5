"""A client's session reaches the service by every door, and the router as a number."""

from typing import Any

import pytest

from deployments.kserve import grpc_service_pb2_grpc as kserve_grpc
from deployments.types import CallOptions, Sampling
from router.sessions import session_key
from router.types import TenantId
from tests.builders.fake_engine import FakeEngine
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.kserve.messages import infer_request
from tests.deployments.gateway.telemetry.watched import cluster_service, watched

SESSION = ("x-session-id", "chat 1")


@pytest.mark.parametrize(("metadata", "session"), [((SESSION,), "chat 1"), ((), None)])
async def test_the_metadata_of_a_native_call_names_the_session(
    metadata: Any, session: str | None
) -> None:
    service = FakeService(text_deltas("ok"))
    async with watched(service, metrics=False) as gateway:
        await gateway.generate(*metadata)
    assert service.last_call.options.session == session


async def test_the_metadata_of_a_kserve_call_does_too() -> None:
    service = FakeService(text_deltas("ok"))
    async with watched(service, metrics=False) as gateway:
        stub = kserve_grpc.GRPCInferenceServiceStub(gateway.grpc)
        await stub.ModelInfer(infer_request(), metadata=(SESSION,), timeout=10)
    assert service.last_call.options.session == "chat 1"


async def test_an_empty_session_is_none() -> None:
    async with cluster_service(FakeEngine()) as service:
        for session in (None, ""):
            options = CallOptions(session=session)
            generation = await service.generate("tiny", "abc", Sampling(max_tokens=1), options)
            assert generation._call.session is None


async def test_the_engine_never_sees_what_the_client_wrote() -> None:
    async with cluster_service(FakeEngine()) as service:
        options = CallOptions(session="chat 1", tenant=TenantId("t"))
        generation = await service.generate("tiny", "abc", Sampling(max_tokens=1), options)
        assert generation._call.session == session_key(TenantId("t"), "chat 1")

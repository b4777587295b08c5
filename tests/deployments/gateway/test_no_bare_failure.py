"""No method of any gRPC service fails without a status of the table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from coterie.v1 import inference_pb2, inference_pb2_grpc
from deployments.gateway.kserve.door import KServeDoor
from deployments.gateway.rpc.door import GrpcDoor
from deployments.gateway.service import InferenceService
from deployments.kserve import grpc_service_pb2, grpc_service_pb2_grpc
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.kserve.messages import infer_request

NATIVE = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
KSERVE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
# They ask the service nothing.
CANNOT_FAIL = {"ServerLive", "ServerMetadata"}
# A failure stands in the response of its request, see the KServe door's tests.
FAILS_INSIDE = {"ModelStreamInfer"}
GENERATES = {"Generate", "GenerateUnary", "Chat", "ChatUnary", "ModelInfer"}
REQUESTS: dict[str, dict[str, Any]] = {
    "Generate": {"text": "a"},
    "GenerateUnary": {"text": "a"},
    "Chat": {"messages": [{"role": "user", "content": "a"}]},
    "ChatUnary": {"messages": [{"role": "user", "content": "a"}]},
    "Tokenize": {"text": "a"},
}


class Broken:
    """An `InferenceService` none of whose methods works."""

    def __getattr__(self, name: str) -> Any:
        def fail(*args: object, **keywords: object) -> None:
            raise KeyError("secret")

        return fail


@asynccontextmanager
async def connected(given: object) -> AsyncIterator[grpc.aio.Channel]:
    service = cast(InferenceService, given)
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(GrpcDoor(service), server)
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        KServeDoor(service), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def failure_of(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """The failure of a call to this method; None where it succeeds."""
    request = message_factory.GetMessageClass(method.input_type)(
        **REQUESTS.get(method.name, {})
    )
    if method.name == "ModelInfer":
        request = infer_request()
    path = f"/{method.containing_service.full_name}/{method.name}"
    ask: Any = channel.unary_stream(path)
    call = ask(request.SerializeToString(), timeout=5)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    return None


METHODS = [
    method
    for service in (NATIVE, KSERVE)
    for method in service.methods
    if method.name not in CANNOT_FAIL | FAILS_INSIDE
]


CASES = [(m, False) for m in METHODS] + [(m, True) for m in METHODS if m.name in GENERATES]


@pytest.mark.parametrize(("method", "is_late"), CASES, ids=lambda v: getattr(v, "name", str(v)))
async def test_a_mistake_of_ours_is_internal_and_tells_nothing(
    method: MethodDescriptor, is_late: bool
) -> None:
    given = FakeService([KeyError("secret")]) if is_late else Broken()
    async with connected(given) as channel:
        failed = await failure_of(channel, method)
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in failed.details()
    assert dict(failed.trailing_metadata())["coterie-error"] == "internal"

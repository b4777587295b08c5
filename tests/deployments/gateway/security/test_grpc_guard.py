"""No gRPC method without a key, and every handler knows who asks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc as pb_grpc
from deployments.gateway.caller import NOBODY, Caller, current_caller
from deployments.gateway.security.grpc_guard import OPEN_METHODS, GrpcGuard
from deployments.gateway.security.guard import Guard
from deployments.gateway.security.key_file import KeyFile
from deployments.kserve import grpc_service_pb2 as kserve_pb
from deployments.kserve import grpc_service_pb2_grpc as kserve_grpc
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.kserve.messages import infer_request
from tests.deployments.gateway.security.conftest import Keys

FILES = (
    pb.DESCRIPTOR,
    kserve_pb.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)
METHODS = [
    method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
]
GUARDED = [m for m in METHODS if m.containing_service.name != "Health"]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def code_of(
    channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Any = ()
) -> grpc.StatusCode:
    """How a call with an empty message ends, whatever the method's kind."""
    request = message_factory.GetMessageClass(method.input_type)()
    response = message_factory.GetMessageClass(method.output_type)
    of_any_kind: Any = channel.stream_stream(
        path_of(method),
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    call = of_any_kind(iter([request]), metadata=metadata, timeout=10)
    try:
        async for _ in call:
            break
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest_asyncio.fixture
async def channel(service: FakeService, keys: Keys) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        opened(service, api_keys_file=keys.file, reflection=True) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


def test_all_services_of_the_door_are_tested() -> None:
    assert {m.containing_service.full_name for m in METHODS} == {
        "coterie.v1.Inference",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert {path_of(m) for m in METHODS} >= OPEN_METHODS


async def test_without_a_key_no_method_is_answered(
    channel: grpc.aio.Channel, service: FakeService
) -> None:
    codes = {path_of(m): await code_of(channel, m) for m in GUARDED}
    opened_up = {path for path, code in codes.items() if code is grpc.StatusCode.OK}
    assert opened_up == OPEN_METHODS
    refused = {path: code for path, code in codes.items() if path not in OPEN_METHODS}
    assert set(refused.values()) == {grpc.StatusCode.UNAUTHENTICATED}
    assert service.calls == []


async def test_with_a_key_no_method_is_refused_for_want_of_one(
    channel: grpc.aio.Channel, keys: Keys
) -> None:
    codes = {path_of(m): await code_of(channel, m, bearer(keys.tenant)) for m in GUARDED}
    assert grpc.StatusCode.UNAUTHENTICATED not in codes.values()


async def test_a_call_with_a_key_opens_nothing_for_the_next_one_without(
    channel: grpc.aio.Channel, keys: Keys
) -> None:
    for method in GUARDED:
        if path_of(method) not in OPEN_METHODS:
            await code_of(channel, method, bearer(keys.tenant))
            code = await code_of(channel, method)
            assert code is grpc.StatusCode.UNAUTHENTICATED, path_of(method)


async def test_a_stream_that_is_refused_may_send_its_first_message(
    channel: grpc.aio.Channel,
) -> None:
    stub = kserve_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer(timeout=10)
    await call.wait_for_connection()
    await asyncio.sleep(0.1)
    await call.write(infer_request(text_input="a", stream=True))
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_that_never_sends_is_refused_all_the_same(
    channel: grpc.aio.Channel,
) -> None:
    call = kserve_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(timeout=10)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_is_told_to_everybody(channel: grpc.aio.Channel) -> None:
    check = next(m for m in METHODS if m.name == "Check")
    assert await code_of(channel, check) is grpc.StatusCode.OK


async def test_a_method_that_is_not_there_is_refused_as_well(
    channel: grpc.aio.Channel, keys: Keys
) -> None:
    call: Any = channel.unary_unary("/coterie.v1.Inference/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(b"", timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(b"", timeout=10, metadata=bearer(keys.tenant))
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Bearer ct-unknown"),),
        (("authorization", "Bearer"),),
        (("authorization", "Basic YWNtZTphY21l"),),
        (("x-api-key", "ct-unknown"),),
        (("x-api-key", ""),),
        (("authorization-bin", b"Bearer \xff"),),
    ],
)
async def test_a_wrong_key_is_refused_with_its_kind(
    channel: grpc.aio.Channel, metadata: Any
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await pb_grpc.InferenceStub(channel).ListModels(
            pb.ListModelsRequest(), metadata=metadata, timeout=10
        )
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert dict(failed.value.trailing_metadata())["coterie-error"] == "unauthenticated"


async def test_an_expired_key_is_refused_as_such(channel: grpc.aio.Channel, keys: Keys) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await pb_grpc.InferenceStub(channel).ListModels(
            pb.ListModelsRequest(), metadata=bearer(keys.expired), timeout=10
        )
    assert "expired" in str(failed.value.details())


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_tenant_and_priority_go_with_the_request(
    channel: grpc.aio.Channel, keys: Keys, service: FakeService, name: str
) -> None:
    value = f"bearer {keys.tenant}" if name == "authorization" else keys.tenant
    await pb_grpc.InferenceStub(channel).GenerateUnary(
        pb.GenerateRequest(text="hi"), metadata=((name, value), ("x-priority", "low"))
    )
    options = service.last_call.options
    assert (options.tenant, options.priority) == ("acme", "low")


async def test_a_triton_stream_s_requests_are_its_caller_s(
    channel: grpc.aio.Channel, keys: Keys, service: FakeService
) -> None:
    metadata = (*bearer(keys.tenant), ("x-priority", "low"))
    call = kserve_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
        iter([infer_request(text_input="a", stream=True)]), metadata=metadata, timeout=10
    )
    assert [response.error_message async for response in call] == [""] * 2
    options = service.last_call.options
    assert (options.tenant, options.priority) == ("acme", "low")


async def test_an_unknown_priority_is_an_invalid_argument(
    channel: grpc.aio.Channel, keys: Keys
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await pb_grpc.InferenceStub(channel).ListModels(
            pb.ListModelsRequest(), metadata=(*bearer(keys.tenant), ("x-priority", "urgent"))
        )
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "high, normal, low" in str(failed.value.details())


async def test_without_a_file_of_keys_everybody_is_anonymous(service: FakeService) -> None:
    async with (
        opened(service) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await pb_grpc.InferenceStub(channel).GenerateUnary(
            pb.GenerateRequest(text="hi"), metadata=(("x-priority", "high"),)
        )
    options = service.last_call.options
    assert (options.tenant, options.priority) == ("anonymous", "high")


class Kinds:
    """A handler of each kind, which notes its caller."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}

    def handlers(self) -> dict[str, Any]:
        return {
            "unary_unary": grpc.unary_unary_rpc_method_handler(self._one("unary_unary")),
            "stream_unary": grpc.stream_unary_rpc_method_handler(self._one("stream_unary")),
            "unary_stream": grpc.unary_stream_rpc_method_handler(self._many("unary_stream")),
            "stream_stream": grpc.stream_stream_rpc_method_handler(self._many("stream_stream")),
        }

    def _one(self, kind: str) -> Any:
        async def handle(request: Any, context: Any) -> bytes:
            self.callers[kind] = current_caller()
            return b""

        return handle

    def blocking(self, request: Any, context: Any) -> bytes:
        """Runs on one of gRPC's threads, as reflection does."""
        self.callers["blocking"] = current_caller()
        return b""

    def _many(self, kind: str) -> Any:
        async def handle(request: Any, context: Any) -> AsyncIterator[bytes]:
            self.callers[kind] = current_caller()
            yield b""

        return handle


async def test_a_blocking_handler_is_guarded_but_does_not_see_its_caller(keys: Keys) -> None:
    kinds = Kinds()
    server = grpc.aio.server(interceptors=[GrpcGuard(Guard(KeyFile(keys.file)))])
    handler: Any = grpc.unary_unary_rpc_method_handler(kinds.blocking)
    handlers = {"blocking": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Kinds", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/test.Kinds/blocking")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"", timeout=10)
        assert kinds.callers == {}
        await call(b"", timeout=10, metadata=bearer(keys.tenant))
    await server.stop(0)
    assert kinds.callers == {"blocking": NOBODY}


def calls_of(channel: grpc.aio.Channel) -> Iterator[tuple[str, Any]]:
    for kind in ("unary_unary", "stream_unary", "unary_stream", "stream_stream"):
        yield kind, getattr(channel, kind)(f"/test.Kinds/{kind}")


async def test_the_caller_reaches_handlers_of_all_four_kinds(keys: Keys) -> None:
    kinds = Kinds()
    server = grpc.aio.server(interceptors=[GrpcGuard(Guard(KeyFile(keys.file)))])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Kinds", kinds.handlers()),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    metadata = (*bearer(keys.tenant), ("x-priority", "high"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for kind, method in calls_of(channel):
            sent = iter([b""]) if kind.startswith("stream") else b""
            call = method(sent, metadata=metadata, timeout=10)
            if kind.endswith("unary"):
                await call
            else:
                assert [chunk async for chunk in call] == [b""]
    await server.stop(0)
    assert kinds.callers == {kind: Caller("acme", "high") for kind in kinds.handlers()}  # type: ignore[arg-type]


async def test_a_key_is_added_and_revoked_while_the_door_is_open(
    channel: grpc.aio.Channel, keys: Keys
) -> None:
    stub = pb_grpc.InferenceStub(channel)
    added = bearer(keys.add("globex"))
    async with asyncio.timeout(20):
        while await _is_refused(stub, added):
            pass
    keys.file.write_text("keys: []\n")
    async with asyncio.timeout(20):
        while not await _is_refused(stub, added):
            pass


async def _is_refused(stub: Any, metadata: Any) -> bool:
    await asyncio.sleep(0.05)
    try:
        await stub.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False

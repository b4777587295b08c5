"""The KServe door through our own stubs: contents, several outputs, errors."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from deployments.gateway.checks import MAX_STREAM_REQUESTS
from deployments.gateway.kserve.door import FINAL_PARAM, KIND_PARAM
from deployments.kserve import grpc_service_pb2 as pb
from deployments.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from deployments.types import Delta
from infra.errors import CapacityError, EngineError
from tests.builders.fake_service import FakeService, model_card
from tests.deployments.gateway.kserve.messages import infer_request, with_params

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def stub(address: str) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel)


def texts_of(response: pb.ModelInferResponse) -> list[str]:
    """The values of the response's first tensor."""
    raw, found = response.raw_output_contents[0], []
    while raw:
        (length,) = struct.unpack("<I", raw[:4])
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return found


async def streamed(
    stub: GRPCInferenceServiceStub, *requests: pb.ModelInferRequest
) -> list[pb.ModelStreamInferResponse]:
    return [response async for response in stub.ModelStreamInfer(iter(requests))]


async def test_values_may_come_as_contents(stub: GRPCInferenceServiceStub) -> None:
    request = infer_request(text_input="abc", exclude_input_in_output=True)
    response = await stub.ModelInfer(request)
    assert (response.id, texts_of(response)) == ("r", ["Hello"])


async def test_each_of_several_outputs_has_its_place(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.script = [
        Delta(1, "b", [98]),
        Delta(0, "a", [97], "stop"),
        Delta(1, "c", [99], "length"),
    ]
    request = infer_request(text_input="x", stream=True, sampling_parameters='{"n": 2}')
    responses = [r.infer_response for r in await streamed(stub, request)]
    assert [texts_of(r) for r in responses] == [["", "b"], ["a", ""], ["", "c"]]
    finals = [r.parameters[FINAL_PARAM].bool_param for r in responses]
    assert finals == [False, False, True]


async def test_whole_outputs_are_in_order_and_lead_with_the_prompt(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.script = [Delta(1, "b", [98], "stop"), Delta(0, "a", [97], "stop")]
    request = infer_request(text_input="x", sampling_parameters='{"n": 2}')
    assert texts_of(await stub.ModelInfer(request)) == ["xa", "xb"]


async def test_a_stream_answers_a_request_that_does_not_stream_once(
    stub: GRPCInferenceServiceStub,
) -> None:
    (only,) = await streamed(stub, infer_request(text_input="abc"))
    assert texts_of(only.infer_response) == ["abcHello"]
    assert only.infer_response.parameters[FINAL_PARAM].bool_param


async def test_a_failure_ends_its_request_after_what_was_sent(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.script = [Delta(0, "a", [97]), EngineError("the engine failed")]
    first, second = await streamed(stub, infer_request(text_input="x", stream=True))
    assert texts_of(first.infer_response) == ["a"]
    assert second.error_message == "the engine failed"
    assert second.infer_response.id == "r"
    assert second.infer_response.parameters[FINAL_PARAM].bool_param
    assert second.infer_response.parameters[KIND_PARAM].string_param == "engine_failed"


async def test_a_mistake_of_ours_tells_nothing_of_the_inside(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.refusal = KeyError("secret")
    (failed,) = await streamed(stub, infer_request(text_input="x", stream=True))
    assert failed.error_message == "internal error; the gateway's log has more"
    with pytest.raises(
        grpc.aio.AioRpcError, match="internal error; the gateway's log has more"
    ):
        await stub.ModelInfer(infer_request())


async def test_a_refusal_has_the_status_and_details_of_its_kind(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.refusal = CapacityError("no room")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(infer_request())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(caught.value.trailing_metadata() or ())
    assert metadata["coterie-error"] == "overloaded"


async def test_a_slow_request_does_not_hold_up_the_others(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    goes_on = asyncio.Event()
    service.script = [Delta(0, "a", [97]), goes_on, Delta(0, "b", [98], "stop")]
    call = stub.ModelStreamInfer()
    for request_id in ("slow", "other"):
        request = infer_request(text_input="x", stream=True)
        request.id = request_id
        await call.write(request)
        first = await call.read()
        assert (first.infer_response.id, texts_of(first.infer_response)) == (request_id, ["a"])
    goes_on.set()
    await call.done_writing()
    rest = [(await call.read()).infer_response for _ in range(2)]
    assert await call.read() is grpc.aio.EOF
    assert sorted((r.id, *texts_of(r)) for r in rest) == [("other", "b"), ("slow", "b")]


async def test_the_shorter_of_timeout_and_deadline_counts(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    await stub.ModelInfer(with_params(timeout=2_000_000), timeout=30)
    assert service.last_call.timeout_s == 2
    await stub.ModelInfer(with_params(timeout=90_000_000), timeout=30)
    assert 20 < (service.last_call.timeout_s or 0) < 40


async def test_a_model_without_replicas_is_not_ready(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.cards = [model_card(num_ready_replicas=0)]
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="tiny"))).ready


async def test_metadata_of_an_unknown_model_is_not_found(
    stub: GRPCInferenceServiceStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="there is no model 'none'") as caught:
        await stub.ModelMetadata(pb.ModelMetadataRequest(name="none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_bytes_that_are_no_message_end_their_stream(
    service: FakeService, address: str
) -> None:
    service.script = [Delta(0, "a", [97]), asyncio.Event()]
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(infer_request(text_input="x", stream=True).SerializeToString())
        await call.read()
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="is no ModelInferRequest") as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert service.aborted_ids == ["r"]


async def test_a_deadline_aborts_all_requests_of_its_stream(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    service.script = [asyncio.Event()]
    requests = [infer_request(text_input="x", stream=True) for _ in range(20)]
    call = stub.ModelStreamInfer(iter(requests), timeout=1)
    with pytest.raises(grpc.aio.AioRpcError, match="Deadline Exceeded"):
        await anext(aiter(call))
    assert service.calls
    async with asyncio.timeout(5):
        while len(service.aborted_ids) < len(service.calls):
            await asyncio.sleep(0.01)
    assert service.open_ids == []


async def test_the_id_may_come_as_metadata(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    request = infer_request(text_input="x", stream=True)
    await stub.ModelInfer(infer_request(), metadata=(("x-request-id", "outer"),))
    assert service.last_call.request_id == "r"  # the request's own counts before it
    request.id = ""
    call = stub.ModelStreamInfer(iter([request]), metadata=(("x-request-id", "outer"),))
    assert [r.infer_response.id async for r in call] == ["", ""]
    assert service.last_call.request_id == "outer"


async def test_a_stream_with_very_many_open_requests_is_read_no_further(
    service: FakeService, stub: GRPCInferenceServiceStub
) -> None:
    goes_on = asyncio.Event()
    service.script = [goes_on, Delta(0, "a", [97], "stop")]
    requests = [infer_request(text_input="x") for _ in range(MAX_STREAM_REQUESTS + 9)]
    call = stub.ModelStreamInfer(iter(requests))
    async with asyncio.timeout(10):
        while len(service.open_ids) < MAX_STREAM_REQUESTS:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(service.calls) == MAX_STREAM_REQUESTS
        goes_on.set()
        assert len([response async for response in call]) == len(requests)

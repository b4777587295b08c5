"""The client against the gateway's own gRPC door, a fake service behind it."""

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from coterie import AsyncClient, Chunk, Collector, Usage, errors
from coterie.v1 import inference_pb2_grpc
from deployments.gateway.rpc.door import GrpcDoor
from tests.builders.fake_service import FakeService, text_deltas

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def client() -> AsyncIterator[AsyncClient]:
    server = grpc.aio.server()
    door = GrpcDoor(FakeService(text_deltas("Hel", "lo")))
    inference_pb2_grpc.add_InferenceServicer_to_server(door, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.stop(0)


async def test_what_the_door_streams_is_what_the_client_gives(client: AsyncClient) -> None:
    usage = Usage(num_prompt_tokens=3, num_output_tokens=5, num_cached_tokens=0)
    assert [chunk async for chunk in client.generate("abc", request_id="r")] == [
        Chunk("r", "tiny", 0, "Hel", (72, 101, 108)),
        Chunk("r", "tiny", 0, "lo", (108, 111), "stop", usage=usage),
    ]


async def test_stream_and_unary_form_say_the_same(client: AsyncClient) -> None:
    collector = Collector()
    async for chunk in client.chat("Hi", request_id="r"):
        collector.add(chunk)
    assert collector.response() == await client.chat_unary("Hi", request_id="r")


async def test_the_doors_errors_arrive_as_the_same_classes(client: AsyncClient) -> None:
    with pytest.raises(errors.UnknownModelError, match="there is no model 'none'"):
        await client.model("none")
    with pytest.raises(errors.UnknownModelError, match="there is no model 'none'"):
        await anext(client.generate("abc", model="none"))

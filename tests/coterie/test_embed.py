"""Embeddings by both clients: against a fake cluster, and the gateway's own gRPC door."""

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from coterie import AsyncClient, Client, Embeddings, InvalidArgumentError, Usage, errors
from coterie.v1 import inference_pb2_grpc
from deployments.gateway.rpc.door import GrpcDoor
from tests.builders.fake_inference import FakeInference
from tests.builders.fake_service import FakeService, model_card

EXPECTED = ((3.0, 1.0), (2.0, 1.0))


def test_each_input_gets_its_vector(client: Client, fake: FakeInference) -> None:
    found = client.embed(["abc", [5, 6]], request_id="r", dimensions=2)
    assert found == Embeddings("r", "fake", EXPECTED, Usage(5, 0, 0))
    assert fake.requests[-1].dimensions == 2


def test_a_string_is_a_single_input(client: Client, fake: FakeInference) -> None:
    assert client.embed("abc").vectors == EXPECTED[:1]
    assert not fake.requests[-1].HasField("dimensions")


@pytest.mark.parametrize("wrong", [[["a"]], [[-1]], [2.5]])
def test_what_is_no_input_is_refused(client: Client, wrong: list[list[int]]) -> None:
    with pytest.raises(InvalidArgumentError, match="inputs"):
        client.embed(wrong)


@pytest_asyncio.fixture
async def service() -> FakeService:
    return FakeService(cards=[model_card("e", task="embed"), model_card("g")])


@pytest_asyncio.fixture
async def async_client(service: FakeService) -> AsyncIterator[AsyncClient]:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(GrpcDoor(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.stop(0)
    service.check_invariants()


async def test_the_door_gives_what_the_service_does(
    async_client: AsyncClient, service: FakeService
) -> None:
    found = await async_client.embed(["abc", [5, 6]], model="e", request_id="r", dimensions=2)
    assert found == Embeddings("r", "e", EXPECTED, Usage(5, 0, 0))
    assert [call.prompt for call in service.calls] == ["abc", [5, 6]]
    assert (await async_client.embed("abc", model="e")).vectors == ((3.0, 1.0, 1.0),)


async def test_models_tell_their_task(async_client: AsyncClient) -> None:
    models = await async_client.models()
    assert {model.name: model.is_embedding for model in models} == {"e": True, "g": False}


async def test_what_the_door_refuses_is_raised(async_client: AsyncClient) -> None:
    with pytest.raises(errors.UnknownMethodError):
        await async_client.embed("a", model="g")
    with pytest.raises(InvalidArgumentError, match="is empty"):
        await async_client.embed([], model="e")
    with pytest.raises(InvalidArgumentError, match="at most 2048"):
        await async_client.embed(["a"] * 2049, model="e")

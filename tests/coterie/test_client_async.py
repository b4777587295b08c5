"""The asyncio client against a server that speaks the real protocol."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from coterie import AsyncClient, Collector, DeadlineError, Usage
from coterie.errors import UnavailableError, UnknownModelError
from tests.builders.fake_inference import REPLY, FakeInference

PATIENCE_S = 5.0

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def async_client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address) as client:
        yield client


async def _has_ended_early(fake: FakeInference) -> bool:
    return await asyncio.to_thread(fake.ended_early.wait, PATIENCE_S)


async def test_a_stream_brings_the_answer_in_pieces_and_then_the_usage(
    async_client: AsyncClient,
) -> None:
    stream = async_client.generate("abc")
    assert "".join([chunk.text async for chunk in stream]) == REPLY
    assert stream.usage == Usage(3, len(REPLY), 0)


async def test_collected_chunks_equal_the_unary_response(async_client: AsyncClient) -> None:
    collector = Collector()
    async for chunk in async_client.chat("Hello", n=2, logprobs=1):
        collector.add(chunk)
    assert collector.response() == await async_client.chat_unary("Hello", n=2, logprobs=1)


async def test_the_small_calls_answer(async_client: AsyncClient) -> None:
    tokenization = await async_client.tokenize("Grüße")
    assert await async_client.detokenize(tokenization.token_ids) == "Grüße"
    assert [model.name for model in await async_client.models()] == ["fake", "fake-adapter"]
    with pytest.raises(UnknownModelError, match="no model 'none' here"):
        await async_client.model("none")


async def test_concurrent_requests_do_not_mix(async_client: AsyncClient) -> None:
    responses = await asyncio.gather(
        *(async_client.generate_unary("a" * i, request_id=f"r{i}") for i in range(1, 9))
    )
    assert [response.request_id for response in responses] == [f"r{i}" for i in range(1, 9)]


async def test_leaving_the_with_block_ends_the_request(
    async_client: AsyncClient, fake: FakeInference
) -> None:
    fake.hold_after = 3
    async with async_client.generate("abc") as stream:
        async for _ in stream:
            break
    assert await _has_ended_early(fake)


async def test_breaking_out_of_the_loop_ends_the_request(
    async_client: AsyncClient, fake: FakeInference
) -> None:
    fake.hold_after = 3
    async for _ in async_client.generate("abc"):
        break
    assert await _has_ended_early(fake)


async def test_cancelling_the_task_ends_the_request_and_raises_cancelled_error(
    async_client: AsyncClient, fake: FakeInference
) -> None:
    fake.hold_after = 3
    started = asyncio.Event()

    async def read() -> None:
        async for _ in async_client.generate("abc"):
            started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _has_ended_early(fake)


async def test_a_stream_cancelled_from_another_task_stops_cleanly(
    async_client: AsyncClient, fake: FakeInference
) -> None:
    fake.hold_after = 3
    stream = async_client.generate("abc")
    asyncio.get_running_loop().call_later(0.1, stream.cancel)
    assert [chunk.text async for chunk in stream] == ["t", "h", "e"]
    assert await _has_ended_early(fake)


async def test_a_deadline_ends_a_stream_on_both_sides(
    async_client: AsyncClient, fake: FakeInference
) -> None:
    fake.hold_after = 3
    with pytest.raises(DeadlineError, match=r"timeout_s=0\.3"):
        async for _ in async_client.generate("abc", timeout_s=0.3):
            pass
    assert await _has_ended_early(fake)


async def test_an_absent_cluster_is_unavailable(unused_tcp_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(UnavailableError, match="start one with `coterie up`"):
            await client.models()
        with pytest.raises(UnavailableError, match="start one with `coterie up`"):
            async for _ in client.generate("abc"):
                pass


async def test_a_client_that_was_never_used_closes() -> None:
    client = AsyncClient()
    await client.close()
    assert client.address == "localhost:9000"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_a_closed_client_says_so_and_nothing_else(async_client: AsyncClient) -> None:
    await async_client.models()
    await async_client.close()
    with pytest.raises(UnavailableError, match="is the client closed"):
        async_client.generate("abc")
    with pytest.raises(UnavailableError, match="is the client closed"):
        await async_client.generate_unary("abc")
    gc.collect()

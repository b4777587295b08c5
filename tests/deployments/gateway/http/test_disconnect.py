"""A client that goes away ends its generation at once, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.asking import COMPLETIONS
from tests.deployments.gateway.http.server import openai_client, serving

pytestmark = pytest.mark.asyncio

PATIENCE_S = 5.0


def post_bytes(fields: dict[str, object]) -> bytes:
    """A whole HTTP/1.1 request."""
    body = json.dumps({"prompt": "hi", **fields}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: door\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def connected(
    address: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare TCP connection to the door."""
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def until_open(service: FakeService) -> None:
    """Let the loop run until the service has an open generation."""
    async with asyncio.timeout(PATIENCE_S):
        while not service.open_ids:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_it_ends_while_the_engine_is_silent(stream: bool) -> None:
    service = FakeService([asyncio.Event()])
    async with serving(service) as address, connected(address) as (_, writer):
        writer.write(post_bytes({"stream": stream}))
        await until_open(service)
        writer.close()
        await service.wait_aborted(PATIENCE_S)
        assert service.open_ids == []
        assert service.aborted_ids == [service.last_call.request_id]


async def test_it_ends_in_the_midst_of_a_stream() -> None:
    first = text_deltas("a", "b")[0]
    service = FakeService([first, asyncio.Event()])
    async with serving(service) as address, connected(address) as (reader, writer):
        writer.write(post_bytes({"stream": True}))
        assert b"200" in await reader.readline()
        await reader.readuntil(b"data: ")
        writer.close()
        await service.wait_aborted(PATIENCE_S)
        assert service.open_ids == []


async def test_it_ends_for_a_client_that_stops_reading_and_then_leaves() -> None:
    flood = text_deltas(*["x" * 1000] * 20_000)
    service = FakeService([*flood[:-1], asyncio.Event()])
    async with serving(service) as address, connected(address) as (reader, writer):
        writer.write(post_bytes({"stream": True}))
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        await service.wait_aborted(PATIENCE_S)
        assert service.open_ids == []


async def test_breaking_out_of_the_openai_client_s_stream_ends_it() -> None:
    service = FakeService([text_deltas("a", "b")[0], asyncio.Event()])
    async with openai_client(service) as client:
        stream = await client.completions.create(model="tiny", prompt="hi", stream=True)
        async with stream:
            async for _ in stream:
                break
        await service.wait_aborted(PATIENCE_S)
        assert service.open_ids == []


async def test_a_client_that_leaves_within_its_body_submits_nothing() -> None:
    service = FakeService(text_deltas("ok"))
    async with serving(service) as address:
        async with connected(address) as (_, writer):
            writer.write(post_bytes({})[:-1])
            await writer.drain()
        async with connected(address) as (reader, writer):
            writer.write(post_bytes({}))
            assert b"200" in await reader.readline()
    assert len(service.calls) == 1


async def test_a_connection_is_kept_for_the_next_request() -> None:
    service = FakeService(text_deltas("ok"))
    async with serving(service) as address, connected(address) as (reader, writer):
        for _ in range(3):
            writer.write(post_bytes({"stream": True}))
            assert b"200" in await reader.readline()
            await reader.readuntil(b"[DONE]")
            await reader.readuntil(b"0\r\n\r\n")
    assert len(service.calls) == 3
    assert service.aborted_ids == []


async def test_a_body_announced_over_the_limit_is_refused_before_it_comes() -> None:
    service = FakeService()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: door\r\ncontent-length: 5000\r\n\r\n"
    async with (
        serving(service, max_message_bytes=1024) as address,
        connected(address) as (reader, writer),
    ):
        writer.write(head.encode())
        assert b"413" in await reader.readline()


async def test_a_body_of_unknown_length_is_refused_when_it_passes_the_limit() -> None:
    service = FakeService()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: door\r\ntransfer-encoding: chunked\r\n\r\n"
    async with (
        serving(service, max_message_bytes=1024) as address,
        connected(address) as (reader, writer),
    ):
        writer.write(head.encode() + b"800\r\n" + b"a" * 0x800 + b"\r\n")
        assert b"413" in await reader.readline()

"""The benchmark's HTTP client against answers written byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.bench.event_client import EventClient
from tests.bench.paths import through_http

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Server:
    """Sends the same bytes for each request, piece by piece; keeps connections."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.num_connections = 0
        self.requests: list[bytes] = []
        self._pieces = pieces

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        while head := await reader.readline():
            length = 0
            while (line := await reader.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.requests.append(head + await reader.readexactly(length))
            for piece in self._pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


@asynccontextmanager
async def serving(*pieces: bytes) -> AsyncIterator[tuple[Server, str]]:
    server = Server(pieces)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        yield server, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def test_events_are_whole_however_they_are_cut_into_chunks() -> None:
    body = b'data: {"a": 1}\n\ndata: two\n\ndata: [DONE]\n\n'
    for size in (1, 7, len(body)):
        chunks = [chunk(body[i : i + size]) for i in range(0, len(body), size)]
        async with serving(HEAD, *chunks, chunk(b"")) as (_, url), EventClient(url) as client:
            events = [event async for event in client.post("/", {})]
        assert events == [b'{"a": 1}', b"two", b"[DONE]"]


async def test_a_connection_is_used_again() -> None:
    pieces = (HEAD, chunk(b"data: x\n\n"), chunk(b""))
    async with serving(*pieces) as (server, url), EventClient(url) as client:
        for _ in range(3):
            assert [event async for event in client.post("/p", {"n": 1})] == [b"x"]
    assert server.requests == [b'POST /p HTTP/1.1\r\n{"n": 1}'] * 3
    assert server.num_connections == 1


async def test_another_answer_than_events_is_an_error_that_shows_it() -> None:
    refusal = b'HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n{"error": "x"}'
    async with serving(refusal) as (_, url), EventClient(url) as client:
        with pytest.raises(ConnectionError, match="404 not found"):
            await anext(client.post("/", {}))


async def test_a_stream_that_is_cut_off_is_an_error() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(b"data: x\n\n"))
        writer.close()

    listener = await asyncio.start_server(cut, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener, EventClient(url) as client:
        events = client.post("/", {})
        assert await anext(events) == b"x"
        with pytest.raises(asyncio.IncompleteReadError):
            await anext(events)


async def test_output_tokens_are_those_that_the_usage_tells() -> None:
    events = (
        b'data: {"choices": [{}]}\n\ndata: {"choices": [], "usage": {"completion_tokens": 5}}'
    )
    pieces = (HEAD, chunk(events + b"\n\ndata: [DONE]\n\n"), chunk(b""))
    async with serving(*pieces) as (_, url), through_http(url, "m") as stream:
        assert [count async for count in stream("r", [1], 5)] == [0, 0, 0, 5]


async def test_a_stream_without_usage_is_refused() -> None:
    pieces = (HEAD, chunk(b'data: {"error": "no"}\n\n'), chunk(b""))
    async with serving(*pieces) as (_, url), through_http(url, "m") as stream:
        with pytest.raises(AssertionError, match="ended a stream with"):
            [count async for count in stream("r", [1], 5)]

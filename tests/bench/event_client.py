"""A lean HTTP client for streams of events: the same for every server measured.

Bare HTTP/1.1 on asyncio's streams, without TLS: a general client would take more
CPU for an event than the servers do, on the core that they need.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

_CRLF = b"\r\n"


class EventClient:
    """Posts JSON and reads the events of the answer; keeps idle connections."""

    def __init__(self, url: str, api_key: str = "none") -> None:
        """`url` names scheme, host and port: `http://127.0.0.1:8000`."""
        self._api_key = api_key
        parts = urlsplit(url)
        assert parts.scheme == "http", url
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            writer.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The data of each event, `[DONE]` too, as it arrives.

        Raises ConnectionError for any other answer than a stream of events, and
        IncompleteReadError where the connection ends before the stream does.
        """
        reader, writer = await self._connect()
        with contextlib.ExitStack() as failed:
            failed.callback(writer.close)
            writer.write(self._request(path, json.dumps(body).encode()))
            await _check_head(reader)
            pending = b""
            async for piece in _chunks(reader):
                *events, pending = (pending + piece).split(b"\n\n")
                for event in events:
                    yield event.removeprefix(b"data: ")
            failed.pop_all()
        self._idle.append((reader, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def _request(self, path: str, payload: bytes) -> bytes:
        head = (
            f"POST {path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            f"Authorization: Bearer {self._api_key}",
            f"Content-Length: {len(payload)}",
        )
        return "\r\n".join(head).encode() + 2 * _CRLF + payload


async def _check_head(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(2 * _CRLF)).lower()
    if b" 200 " not in head.partition(_CRLF)[0] or b"text/event-stream" not in head:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                head += await reader.read(2000)
        raise ConnectionError(f"no stream of events: {head.decode(errors='replace')}")
    assert b"transfer-encoding: chunked" in head, head


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Bodies of the chunks of a chunked answer, up to its end."""
    while size := int(await reader.readuntil(_CRLF), 16):
        yield (await reader.readexactly(size + len(_CRLF)))[:size]
    await reader.readexactly(len(_CRLF))

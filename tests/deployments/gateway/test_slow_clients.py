"""Clients that send too much of a head, half a request or nothing, or read nothing."""

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import uvicorn

from coterie.v1 import inference_pb2, inference_pb2_grpc
from deployments.gateway.http.protocol import limited_http_protocol
from deployments.gateway.rpc import answer
from deployments.kserve import grpc_service_pb2_grpc
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService, text_deltas
from tests.builders.keys import write_keys
from tests.deployments.gateway.kserve.messages import infer_request

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n"
BODY = b'{"prompt": "a"}'
REQUEST = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
SOON_S = 0.3
PATIENCE_S = 10.0
MAX_BYTES = 4096
MUCH = text_deltas(*["x" * 10_000] * 3000)
LARGE = "x" * 1_000_000
TAKES_LITTLE = [("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)]
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
TAKES_NOTHING = "the client has taken nothing"


async def sent_raw(address: str, *pieces: bytes, within_s: float = 1.0) -> tuple[bytes, bool]:
    """What comes back of these bytes, and whether the door has ended the connection."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found = b""
    has_ended = False
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(within_s):
            while got := await reader.read(65536):
                found += got
        has_ended = True
    except ConnectionError:
        has_ended = True
    except TimeoutError:
        pass
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return found, has_ended


async def test_an_http_head_without_end_is_cut_off() -> None:
    async with opened(FakeService()) as (_, _, http):
        endless, _ = await sent_raw(http, b"GET /health HTTP/1.1\r\nx-a: ", *[b"a" * 65536] * 8)
        line, _ = await sent_raw(http, b"GET /", *[b"a" * 65536] * 8)
        assert endless.startswith(b"HTTP/1.1 431 ")
        assert line.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("endless", [b"x-a: ", b"1;x="])
async def test_chunks_without_a_body_are_cut_off(
    tmp_path: Path, key: str | None, endless: bytes
) -> None:
    # What follows the last chunk, or a chunk's size, is kept by the parser or by uvicorn.
    keys = {} if key is None else {"api_keys_file": str(tmp_path / "keys.yaml")}
    if keys:
        write_keys(tmp_path / "keys.yaml", ["acme"])
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    first = b"0\r\n" if endless.startswith(b"x") else b""
    async with opened(FakeService(), **keys) as (_, _, http):
        _, writer = await asyncio.open_connection(*http.split(":"))
        writer.write(head + first + endless)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                writer.write(b"a" * 65536)
                await writer.drain()


async def test_requests_of_one_connection_each_have_the_whole_limit() -> None:
    head = HEAD + b"x-a: " + b"a" * 10_000
    body = b'{"prompt": "' + b"a" * 100_000 + b'"}'
    request = head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with opened(FakeService(text_deltas("ok"))) as (_, _, http):
        found, _ = await sent_raw(http, *[request] * 3)
    assert found.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", []),
        (b"\r\n", []),
        (HEAD, [b"408"]),
        (REQUEST[:-1], [b"408"]),
        (REQUEST + HEAD, [b"200", b"408"]),
        (REQUEST + REQUEST[:-1], [b"200", b"408"]),
    ],
)
async def test_half_a_request_is_not_waited_for_for_ever(
    sent: bytes, answers: list[bytes]
) -> None:
    async with opened(FakeService(text_deltas("ok")), client_timeout_s=SOON_S) as (_, _, http):
        found, has_ended = await sent_raw(http, sent, within_s=3)
        assert has_ended
        assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == answers


async def test_a_connection_that_does_not_speak_grpc_is_ended() -> None:
    async with opened(FakeService(), client_timeout_s=SOON_S) as (_, address, _):
        _, has_ended = await sent_raw(address, within_s=3)
        assert has_ended


async def test_an_answer_may_take_longer_than_its_request() -> None:
    engine = asyncio.Event()
    service = FakeService([engine, *text_deltas("ok")])
    async with opened(service, client_timeout_s=SOON_S) as (_, _, http):
        asyncio.get_running_loop().call_later(3 * SOON_S, engine.set)
        found, _ = await sent_raw(http, REQUEST, within_s=3)
    assert found.startswith(b"HTTP/1.1 200 ")


async def test_an_idle_connection_is_kept_for_the_time_that_is_set() -> None:
    service = FakeService(text_deltas("ok"))
    async with opened(service, client_timeout_s=SOON_S, keep_alive_s=30) as (_, _, http):
        reader, writer = await asyncio.open_connection(*http.split(":"))
        for _ in range(2):
            writer.write(REQUEST)
            await asyncio.sleep(3 * SOON_S)
            assert (await reader.read(2**16)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


async def test_the_rest_of_a_refused_body_does_not_keep_the_connection() -> None:
    refused = HEAD + b"content-length: %d\r\n\r\n" % (MAX_BYTES * 2) + b"x" * MAX_BYTES
    async with opened(FakeService(), max_message_bytes=MAX_BYTES, keep_alive_s=1) as (
        _,
        _,
        http,
    ):
        reader, writer = await asyncio.open_connection(*http.split(":"))
        writer.write(refused)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.write(b"x" * MAX_BYTES)
        async with asyncio.timeout(4):
            await reader.read()
        writer.close()


async def test_a_connection_serves_on_after_a_refused_body() -> None:
    refused = HEAD + b"content-length: %d\r\n\r\n" % (MAX_BYTES * 2) + b"x" * MAX_BYTES * 2
    service = FakeService(text_deltas("ok"))
    async with opened(service, max_message_bytes=MAX_BYTES) as (_, _, http):
        found, _ = await sent_raw(http, refused, REQUEST)
    assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"413", b"200"]


async def test_a_stream_that_nobody_reads_ends_over_grpc(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answer, "_ABORT_WITHIN_S", SOON_S)
    service = FakeService(MUCH)
    async with (
        opened(service, client_timeout_s=SOON_S) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = inference_pb2_grpc.InferenceStub(channel).Generate(
            inference_pb2.GenerateRequest(text="a")
        )
        assert (await call.read()).text
        await service.wait_aborted(PATIENCE_S)
        # Nothing of ours has failed, and one that reads on after all is told.
        await asyncio.sleep(2 * SOON_S)
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
        with pytest.raises(grpc.aio.AioRpcError, match=TAKES_NOTHING) as ended:
            while await call.read():
                pass
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_that_nobody_reads_ends_over_kserve() -> None:
    service = FakeService(MUCH)
    async with (
        opened(service, client_timeout_s=SOON_S) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await call.write(infer_request(text_input="a", stream=True))
        assert (await call.read()).infer_response.id
        await service.wait_aborted(PATIENCE_S)
        with pytest.raises(grpc.aio.AioRpcError, match=TAKES_NOTHING):
            while await call.read():
                pass


async def test_a_stream_whose_first_message_is_not_taken_ends_over_grpc(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = FakeService(text_deltas(LARGE, "b"))
    async with (
        opened(service, client_timeout_s=SOON_S) as (_, address, _),
        grpc.aio.insecure_channel(address, options=TAKES_LITTLE) as channel,
    ):
        call = inference_pb2_grpc.InferenceStub(channel).Generate(
            inference_pb2.GenerateRequest(text="a")
        )
        await service.wait_aborted(PATIENCE_S)
        with pytest.raises(grpc.aio.AioRpcError, match=TAKES_NOTHING):
            async with asyncio.timeout(PATIENCE_S):
                while await call.read():
                    pass
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_stream_whose_first_message_is_not_taken_ends_over_kserve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = FakeService([*text_deltas(LARGE, "b"), asyncio.Event()])
    async with (
        opened(service) as (_, address, _),
        grpc.aio.insecure_channel(address, options=TAKES_LITTLE) as channel,
    ):
        call: Any = channel.stream_stream(STREAM_INFER)()
        await call.write(infer_request(text_input="a", stream=True).SerializeToString())
        async with asyncio.timeout(PATIENCE_S):
            while not service.calls:
                await asyncio.sleep(0.01)
        await asyncio.sleep(SOON_S)
        # The write of the answer is given up for this.
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="is no ModelInferRequest"):
            async with asyncio.timeout(PATIENCE_S):
                while await call.read():
                    pass
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_stream_that_nobody_reads_ends_over_http() -> None:
    service = FakeService([*MUCH, asyncio.Event()])
    body = b'{"prompt": "a", "stream": true}'
    request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    async with opened(service, client_timeout_s=SOON_S) as (_, _, http):
        reader, writer = await asyncio.open_connection(*http.split(":"))
        writer.write(request)
        await service.wait_aborted(PATIENCE_S)
        assert not (await reader.read()).endswith(b"[DONE]\n\n")
        writer.close()


async def test_a_whole_answer_that_nobody_reads_does_not_keep_the_connection() -> None:
    service = FakeService(text_deltas("x" * 30_000_000))
    async with opened(service, client_timeout_s=SOON_S, keep_alive_s=1) as (_, _, http):
        reader, writer = await asyncio.open_connection(*http.split(":"))
        writer.write(REQUEST)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await asyncio.sleep(1 + 3 * SOON_S)
        assert len(await reader.read()) < 30_000_000
        writer.close()


async def test_a_client_that_reads_steadily_gets_the_whole_of_a_large_answer() -> None:
    length = 12_000_000
    service = FakeService(text_deltas("x" * length))
    async with opened(service, client_timeout_s=1, keep_alive_s=1) as (_, _, http):
        reader, writer = await asyncio.open_connection(*http.split(":"), limit=2**16)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        writer.write(REQUEST)
        num_bytes = 0
        while got := await reader.read(2**16):
            num_bytes += len(got)
            await asyncio.sleep(0.015)
        assert num_bytes > length
        writer.close()


class Transport:
    """As much of one as counts what waits to be sent."""

    num_unsent_bytes = 0
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.num_unsent_bytes

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, _: str) -> None:
        return None


async def test_a_client_that_reads_in_bursts_is_not_taken_for_one_that_reads_nothing() -> None:
    config = uvicorn.Config(lambda: None, http=limited_http_protocol(SOON_S))
    protocol = limited_http_protocol(SOON_S)(config, uvicorn.server.ServerState(), {})
    transport = Transport()
    protocol.connection_made(cast(asyncio.Transport, transport))
    protocol._reading.stop()
    for _ in range(12):
        transport.num_unsent_bytes = 70_000
        protocol.pause_writing()
        await asyncio.sleep(SOON_S / 4)
        transport.num_unsent_bytes = 10_000
        protocol.resume_writing()
    assert not transport.is_aborted
    transport.num_unsent_bytes = 70_000
    protocol.pause_writing()
    await asyncio.sleep(2 * SOON_S)
    assert transport.is_aborted


async def test_a_request_that_came_before_its_turn_has_all_its_time_then() -> None:
    engine = asyncio.Event()
    service = FakeService([engine, *text_deltas("ok")])
    async with opened(service, client_timeout_s=1) as (_, _, http):
        reader, writer = await asyncio.open_connection(*http.split(":"))
        writer.write(REQUEST + REQUEST[:-1])
        asyncio.get_running_loop().call_later(1.7, engine.set)
        await asyncio.sleep(2.3)
        writer.write(REQUEST[-1:])
        found = b""
        async with asyncio.timeout(PATIENCE_S):
            while found.count(b"HTTP/1.1 200 ") < 2:
                got = await reader.read(2**16)
                assert got, found
                found += got
        writer.close()

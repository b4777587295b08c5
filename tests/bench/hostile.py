"""Clients of every manner, good and bad, and how each of their requests ended.

A *manner* is a coroutine function that makes one request and returns its outcome:
a word of `Outcome` or the kind of the error that it met. `MANNERS` says of each
which outcomes are as they should be; anything else is a finding.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc

from coterie import AsyncClient, CoterieError
from deployments.kserve import grpc_service_pb2, grpc_service_pb2_grpc

SERVED, LEFT, HUNG = "served", "left", "hung"
CLIENT_TIMEOUT_S = 10.0
"""`gateway.client_timeout_s` of the cluster."""
_HUNG_S = 60.0
_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_BUSY = {"overloaded"}


@dataclass
class Target:
    """The doors of a cluster and a key of each tenant. `clients` are kept open."""

    grpc_address: str
    http_url: str
    model: str
    key: str
    limited_key: str
    max_message_bytes: int
    client: AsyncClient
    limited_client: AsyncClient
    session: aiohttp.ClientSession

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of the HTTP door."""
        host, port = self.http_url.removeprefix("http://").split(":")
        return host, int(port)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """That of a gRPC call with the key."""
        return (("authorization", f"Bearer {self.key}"),)


Manner = Callable[[Target, random.Random], Awaitable[str]]


async def good_grpc(target: Target, dice: random.Random) -> str:
    """Streams to the end and counts the tokens."""
    num_tokens = dice.randint(1, 48)
    stream = target.client.generate(
        _prompt(dice), max_tokens=num_tokens, ignore_eos=True, temperature=0
    )
    count = sum([len(chunk.token_ids) async for chunk in stream])
    return SERVED if count == num_tokens else f"{count} tokens instead of {num_tokens}"


async def good_http(target: Target, dice: random.Random) -> str:
    """Reads all events of a stream, or a whole answer."""
    is_stream = dice.random() < 0.7
    fields = {"prompt": _prompt(dice), "max_tokens": dice.randint(1, 32), "stream": is_stream}
    async with _post(target, _COMPLETIONS, fields) as response:
        body = await response.read()
        if response.status != 200:
            return _http_kind(body)
    ended = body.endswith(b"data: [DONE]\n\n") if is_stream else b'"usage"' in body
    return SERVED if ended else "cut off"


async def canceller(target: Target, dice: random.Random) -> str:
    """Leaves a gRPC stream after some pieces, or before the first."""
    num_pieces = dice.randint(0, 5)
    async with target.client.generate(_prompt(dice), max_tokens=200, ignore_eos=True) as stream:
        for number in range(num_pieces):
            if await anext(stream, None) is None:
                # On a busy machine a single piece may hold all of it.
                return LEFT if number else "cut off"
    return LEFT


async def hurried(target: Target, dice: random.Random) -> str:
    """Gives too little time."""
    timeout_s = dice.uniform(0.005, 0.8)
    stream = target.client.generate(
        _prompt(dice), max_tokens=1000, ignore_eos=True, timeout_s=timeout_s
    )
    async for _ in stream:
        pass
    return SERVED


async def vanisher_grpc(target: Target, dice: random.Random) -> str:
    """Opens a connection of its own and drops it in the middle of a stream."""
    async with AsyncClient(target.grpc_address, api_key=target.key) as client:
        stream = client.generate(_prompt(dice), max_tokens=300, ignore_eos=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(dice.uniform(0.01, 1.0)):
                async for _ in stream:
                    pass
    return LEFT


async def vanisher_http(target: Target, dice: random.Random) -> str:
    """Resets the connection in the middle of a stream, or of its own request."""
    fields = {"prompt": _prompt(dice), "max_tokens": 300, "stream": True, "ignore_eos": True}
    whole = _request(target, _COMPLETIONS, json.dumps(fields).encode())
    sent = whole if dice.random() < 0.7 else whole[: dice.randint(1, len(whole) - 1)]
    reader, writer = await asyncio.open_connection(*target.http_address)
    writer.write(sent)
    await writer.drain()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(dice.randint(1, 2000)), dice.uniform(0.01, 0.5))
    raw: socket.socket = writer.get_extra_info("socket")
    # On close: reset, as when a machine has died.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return LEFT


async def triton_leaver(target: Target, dice: random.Random) -> str:
    """Opens several requests on one KServe stream and leaves before their end."""
    async with grpc.aio.insecure_channel(target.grpc_address) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(metadata=target.metadata)
        num_requests = dice.randint(1, 4)
        for number in range(num_requests):
            await call.write(_triton_request(target.model, str(number), dice))
        # Each has one response at least, and the stream stays open.
        for _ in range(dice.randint(0, num_requests)):
            await call.read()
        call.cancel()
    return LEFT


async def garbage_grpc(target: Target, dice: random.Random) -> str:
    """Sends bytes that are no message to a method."""
    async with grpc.aio.insecure_channel(target.grpc_address) as channel:
        call: Any = channel.unary_stream("/coterie.v1.Inference/Generate")
        try:
            async for _ in call(dice.randbytes(64), metadata=target.metadata, timeout=20):
                pass
        except grpc.RpcError as error:
            return str(error.code().name)
    return SERVED


async def garbage_bytes(target: Target, dice: random.Random) -> str:
    """Speaks no protocol at all to one of the ports."""
    reader, writer = await asyncio.open_connection(*_either_port(target, dice))
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(dice.randbytes(dice.randint(1, 4000)))
        await writer.drain()
        await asyncio.wait_for(reader.read(100), 1)
    writer.transport.abort()
    return LEFT


async def garbage_json(target: Target, dice: random.Random) -> str:
    """Sends what is no request: broken JSON, wrong types, unknown fields, deep nesting."""
    body = dice.choice(
        [
            b"{",
            b"\xff\xfe",
            b"[" * 5000,
            b'{"prompt": 7}',
            b'{"prompt": "a", "max_tokens": -1}',
            b'{"prompt": "a", "temperature": 1e9}',
            b'{"prompt": "a", "cache_salt": "x"}',
            b'{"prompt": "a", "n": 100000}',
            dice.randbytes(100),
        ]
    )
    async with _post(target, _COMPLETIONS, body) as response:
        return _http_kind(await response.read())


async def stranger(target: Target, dice: random.Random) -> str:
    """Has no key, or a wrong one."""
    key = dice.choice(["", "ct-wrong", "x" * 5000])
    if dice.random() < 0.5:
        headers = {"authorization": f"Bearer {key}"}
        async with target.session.post(
            target.http_url + _CHAT, data=b"{}", headers=headers
        ) as response:
            return _http_kind(await response.read())
    async with AsyncClient(target.grpc_address, api_key=key or None) as client:
        await client.models()
    return SERVED


async def over_limit(target: Target, dice: random.Random) -> str:
    """Asks for more than the model, the door or the gateway takes."""
    kind = dice.randrange(4)
    if kind == 0:
        await target.client.generate([5] * 5000, max_tokens=1).__anext__()
    elif kind == 1:
        await target.client.generate([5], max_tokens=10_000_000).__anext__()
    elif kind == 2:
        async with _post(
            target, _COMPLETIONS, b"x" * (target.max_message_bytes + 1)
        ) as response:
            return _http_kind(await response.read())
    else:
        await target.client.generate([5], model="nobody").__anext__()
    return SERVED


async def limited(target: Target, dice: random.Random) -> str:
    """A tenant that asks for more than its rates allow."""
    stream = target.limited_client.generate(_prompt(dice), max_tokens=32, ignore_eos=True)
    async for _ in stream:
        pass
    return SERVED


async def idler(target: Target, dice: random.Random) -> str:
    """Connects, says half a sentence, and stays for a while."""
    reader, writer = await asyncio.open_connection(*target.http_address)
    writer.write(_request(target, _COMPLETIONS, b"{" * 100)[:-99])
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(1), dice.uniform(1, 5))
    writer.close()
    return LEFT


async def silent(target: Target, dice: random.Random) -> str:
    """Connects to one of the ports and says nothing, for longer than is waited for."""
    reader, writer = await asyncio.open_connection(*_either_port(target, dice))
    try:
        async with asyncio.timeout(CLIENT_TIMEOUT_S * 2):
            while await reader.read(1000):
                pass
    except TimeoutError:
        return HUNG
    except ConnectionError:
        pass
    finally:
        writer.close()
    return LEFT


async def staller(target: Target, dice: random.Random) -> str:
    """Asks for much, and takes none of it for a while."""
    prompt = _prompt(dice)
    if dice.random() < 0.5:
        async with target.client.generate(prompt, max_tokens=1500, ignore_eos=True) as stream:
            await anext(stream)
            await asyncio.sleep(dice.uniform(0, 2 * CLIENT_TIMEOUT_S))
        return LEFT
    fields = {"prompt": prompt, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, target.http_address)
        await loop.sock_sendall(
            raw, _request(target, _COMPLETIONS, json.dumps(fields).encode())
        )
        await asyncio.sleep(dice.uniform(0, 2 * CLIENT_TIMEOUT_S))
    return LEFT


async def endless(target: Target, dice: random.Random) -> str:
    """Sends a header, a trailer or the size of a chunk without end."""
    chunked = b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    start = dice.choice([b"GET / HTTP/1.1\r\nx: ", chunked + b"0\r\nx: ", chunked + b"1;x="])
    _, writer = await asyncio.open_connection(*target.http_address)
    try:
        writer.write(start)
        for _ in range(200):
            writer.write(b"a" * 65536)
            await writer.drain()
    except ConnectionError:
        return LEFT
    finally:
        writer.transport.abort()
    return "taken"


@dataclass(frozen=True)
class Kind:
    """A manner, how many clients behave so, and what may come of it."""

    manner: Manner
    num_clients: int
    expected: frozenset[str]


def _kind(manner: Manner, num_clients: int, *expected: str) -> Kind:
    return Kind(manner, num_clients, frozenset(expected))


_REFUSED = ("invalid_argument", "bad_request")
MANNERS: Mapping[str, Kind] = {
    kind.manner.__name__: kind
    for kind in (
        _kind(good_grpc, 4, SERVED, *_BUSY),
        _kind(good_http, 4, SERVED, *_BUSY),
        _kind(canceller, 2, LEFT, *_BUSY),
        _kind(hurried, 2, SERVED, "deadline_exceeded", *_BUSY),
        _kind(vanisher_grpc, 2, LEFT, *_BUSY),
        _kind(vanisher_http, 2, LEFT),
        _kind(triton_leaver, 2, LEFT),
        _kind(garbage_grpc, 1, "INVALID_ARGUMENT"),
        _kind(garbage_bytes, 1, LEFT),
        _kind(garbage_json, 1, *_REFUSED, *_BUSY),
        _kind(stranger, 1, "unauthenticated", "invalid_api_key"),
        _kind(over_limit, 1, "prompt_too_long", "request_too_large", "unknown_model", *_BUSY),
        _kind(limited, 2, SERVED, "overloaded"),
        _kind(idler, 2, LEFT),
        _kind(silent, 2, LEFT),
        _kind(endless, 1, LEFT),
        _kind(staller, 2, LEFT, *_BUSY),
    )
}


async def outcome_of(manner: Manner, target: Target, dice: random.Random) -> str:
    """How one request ended; never raises but when it is cancelled."""
    try:
        async with asyncio.timeout(_HUNG_S):
            return await manner(target, dice)
    except TimeoutError:
        return HUNG
    except CoterieError as error:
        return error.kind
    except grpc.RpcError as error:
        return str(error.code().name)
    except (aiohttp.ClientError, OSError) as error:
        return type(error).__name__


def _prompt(dice: random.Random) -> list[int]:
    return [dice.randint(5, 400) for _ in range(dice.randint(1, 300))]


def _either_port(target: Target, dice: random.Random) -> tuple[str, int]:
    host, port = target.grpc_address.split(":")
    return (host, int(port)) if dice.random() < 0.5 else target.http_address


def _post(target: Target, path: str, fields: Any) -> Any:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    return target.session.post(target.http_url + path, data=body, headers=headers)


def _request(target: Target, path: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: door",
        f"authorization: Bearer {target.key}",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _http_kind(body: bytes) -> str:
    """`error.code` of an OpenAI-style error."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"no error: {body[:80]!r}"


def _triton_request(
    model: str, request_id: str, dice: random.Random
) -> grpc_service_pb2.ModelInferRequest:
    message = grpc_service_pb2.ModelInferRequest(model_name=model, id=request_id)
    text = b"Once upon a time " * dice.randint(1, 20)
    for name, datatype, content in (
        ("text_input", "BYTES", struct.pack("<I", len(text)) + text),
        ("stream", "BOOL", b"\x01"),
    ):
        message.inputs.add(name=name, datatype=datatype, shape=[1])
        message.raw_input_contents.append(content)
    message.parameters["max_tokens"].int64_param = 100
    return message

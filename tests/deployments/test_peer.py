"""Two ends of a connection over a real socket, and strangers who call at one."""

import asyncio
import errno
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import peer
from deployments.peer import PeerConnection

TOKEN = "secret"


NONSENSE = b"nonsense"


class Recorder:
    """A handler that remembers, but for nonsense."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.is_open = asyncio.Event()
        self.has_ended = asyncio.Event()

    def opened(self) -> None:
        self.is_open.set()

    def received(self, data: bytes) -> None:
        if data == NONSENSE:
            raise ValueError("what is that?")
        self.messages.append(data)

    def ended(self) -> None:
        self.has_ended.set()


@asynccontextmanager
async def listening(engine: Recorder) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: PeerConnection(TOKEN, "engine", engine), "127.0.0.1", 0
    )
    yield server.sockets[0].getsockname()[1]
    server.close()


async def connect(port: int, token: str = TOKEN) -> tuple[Recorder, PeerConnection]:
    gateway = Recorder()
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: PeerConnection(token, "gateway", gateway), "127.0.0.1", port
    )
    return gateway, connection


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()


async def test_messages_arrive_whole_and_in_order_until_the_end() -> None:
    engine = Recorder()
    async with listening(engine) as port:
        gateway, connection = await connect(port)
        await soon(gateway.is_open)
        sent = [b"", b"x", b"y" * 3_000_000, b"z"]
        for message in sent:
            connection.send(message)
        connection.close()
        connection.send(b"too late")
        await soon(engine.has_ended)
        assert engine.messages == sent
        await soon(gateway.has_ended)


async def test_an_end_with_another_token_is_never_opened_on_either_side() -> None:
    engine = Recorder()
    async with listening(engine) as port:
        gateway, _ = await connect(port, "guess")
        await soon(gateway.has_ended)
        await soon(engine.has_ended)
        assert not gateway.is_open.is_set()
        assert not engine.is_open.is_set()


async def test_a_peer_that_sends_our_own_proof_back_is_not_believed() -> None:
    engine = Recorder()
    async with listening(engine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        nonce = await reader.readexactly(36)
        writer.write(nonce)
        writer.write(await reader.readexactly(36))
        await soon(engine.has_ended)
        assert not engine.is_open.is_set()
        writer.close()


async def test_a_stranger_may_not_send_much_before_its_proof() -> None:
    engine = Recorder()
    async with listening(engine) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((1_000_000).to_bytes(4, "big"))
        await soon(engine.has_ended)
        writer.close()


@pytest.mark.parametrize(
    ("code", "was_silent"),
    [(errno.ETIMEDOUT, True), (errno.EHOSTUNREACH, True), (errno.ECONNRESET, False)],
)
async def test_an_end_that_nobody_made_is_told_from_one_that_somebody_made(
    code: int, was_silent: bool
) -> None:
    async with listening(Recorder()) as port:
        gateway, connection = await connect(port)
        await soon(gateway.is_open)
        connection.connection_lost(OSError(code, "as the kernel says"))
        assert connection.was_silent == was_silent
        connection.abort()


async def test_a_silent_stranger_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "_HANDSHAKE_TIMEOUT_S", 0.05)
    engine = Recorder()
    async with listening(engine) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await soon(engine.has_ended)
        writer.close()


async def test_nonsense_ends_the_connection() -> None:
    engine = Recorder()
    async with listening(engine) as port:
        gateway, connection = await connect(port)
        await soon(gateway.is_open)
        connection.send(NONSENSE)
        connection.send(b"never read")
        await soon(gateway.has_ended)
        assert engine.messages == []


class Wire(asyncio.Transport):
    """A transport that only keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


@given(
    messages=st.lists(st.binary(max_size=40), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=10),
)
def test_however_the_stream_is_cut_the_messages_are_the_same(
    messages: list[bytes], cuts: list[int]
) -> None:
    wire = Wire()
    handler = Recorder()
    end = PeerConnection(TOKEN, "engine", handler)
    end._transport, end._is_open = wire, True
    for message in messages:
        end.send(message)
    borders = [0, *sorted(min(cut, len(wire.written)) for cut in cuts), len(wire.written)]
    for start, stop in itertools.pairwise(borders):
        end.data_received(wire.written[start:stop])
    assert handler.messages == messages

"""How a server that speaks HTTP fails, and what the first look at it tells."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coterie import http_server, model_list
from coterie.errors import CoterieError, UnauthenticatedError, UnavailableError
from coterie.hints import hint_in
from coterie.http_server import HttpServer
from coterie.model_list import ModelList, ask_models
from coterie.security import Security
from tests.builders.authority import Authority


@asynccontextmanager
async def answering(
    status: int, body: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Port of a server that says this, whatever it is asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def asked(
    server: HttpServer, timeout_s: float = 5.0, *, is_named: bool = False
) -> ModelList:
    try:
        return await ask_models(server, timeout_s, is_named=is_named)
    finally:
        await server.session.close()


async def failure_of(server: HttpServer, timeout_s: float = 5.0) -> CoterieError:
    with pytest.raises(CoterieError) as caught:
        await asked(server, timeout_s)
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "names"),
    [
        (200, '{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}', ("a", "b")),
        (200, '[{"id": "a"}]', ("a",)),
        (403, "not for you", None),
        (503, "<html>", None),
    ],
)
async def test_models_are_told_and_a_server_that_keeps_them_to_itself_is_let_be(
    status: int, body: str, names: tuple[str, ...] | None
) -> None:
    async with answering(status, body) as port:
        found = await asked(HttpServer(f"http://127.0.0.1:{port}/v1"), is_named=True)
    assert found == ModelList(names, status, body)


@pytest.mark.parametrize(
    ("status", "body"), [(404, '{"detail": "Not Found"}'), (200, "<html>"), (200, "{}")]
)
async def test_something_that_is_no_such_server_is_told_with_a_guess(
    status: int, body: str
) -> None:
    async with answering(status, body) as port:
        url = f"http://127.0.0.1:{port}"
        error = await failure_of(HttpServer(url))
    assert isinstance(error, UnavailableError)
    assert str(error) == f"no OpenAI interface at {url}; does it lack /v1?"


@asynccontextmanager
async def answering_in_turn(*answers: tuple[int, str] | None) -> AsyncIterator[str]:
    """URL of a server that gives each request the next answer; None is silence."""
    left = iter(answers)
    is_over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = next(left)
        if answer is None:
            await is_over.wait()
        else:
            status, body = answer
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        is_over.set()


NONE = (404, '{"error": {"message": "no such route"}}')
LIST = (200, '[{"id": "a"}]')


async def test_where_the_model_is_named_a_missing_v1_is_told_by_the_list_behind_it() -> None:
    async with answering_in_turn(NONE, LIST) as url:
        with pytest.raises(UnavailableError, match="does it lack /v1"):
            await asked(HttpServer(url), is_named=True)


@pytest.mark.parametrize("path", ["", "/v1"])
async def test_where_the_model_is_named_a_server_may_be_without_the_list(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering_in_turn(NONE, NONE) as url:
        found = await asked(HttpServer(url + path), is_named=True)
    assert found == ModelList(None, *NONE)
    assert "has no list of models; the model is taken as named" in caplog.text


@pytest.mark.parametrize("first", [None, (503, "busy"), (429, "busy")])
async def test_a_busy_server_is_asked_again(
    first: tuple[int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_list, "CONTACT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(model_list, "_FIRST_WAIT_S", 0.001)
    async with answering_in_turn(first, first, LIST) as url:
        assert (await asked(HttpServer(f"{url}/v1"))).names == ("a",)


async def test_another_key_is_wanted() -> None:
    async with answering(401, "who?") as port:
        error = await failure_of(HttpServer(f"http://127.0.0.1:{port}/v1"))
    assert isinstance(error, UnauthenticatedError)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections come about, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_the_first_look_is_not_waited_for_as_long_as_an_answer(silent_port: int) -> None:
    server = HttpServer(f"http://127.0.0.1:{silent_port}/v1", timeout_s=3600)
    error = await failure_of(server, timeout_s=0.1)
    assert isinstance(error, UnavailableError)
    assert str(error) == f"nothing answers at {server.url} within 0.1 s"


@pytest.fixture
def full_port() -> Iterator[int]:
    """No connection comes about: the queue of those that wait is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_connection_that_does_not_come_about_is_no_deadline_of_the_request(
    full_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_CONNECT_TIMEOUT_S", 0.2)
    server = HttpServer(f"http://127.0.0.1:{full_port}/v1", timeout_s=3600)
    error = await failure_of(server)
    assert isinstance(error, UnavailableError)
    assert str(error) == f"nothing answers at {server.url} within 0.2 s"


async def test_a_certificate_of_a_stranger_is_not_told_as_an_absent_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "ours").mkdir()
    tls, ours = (
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        Authority(tmp_path / "ours"),
    )
    tls.load_cert_chain(*Authority(tmp_path).issue("server"))
    async with answering(200, "[]", tls) as port:
        server = HttpServer(f"https://127.0.0.1:{port}/v1", Security(ca_file=ours.file))
        error = await failure_of(server)
    assert str(error).startswith(f"no secure connection to {server.url}: ")
    assert (hint_in(error) or "").startswith("--ca-file FILE")


async def test_a_client_s_certificate_is_shown_to_a_server_that_asks_for_it(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    tls.load_cert_chain(*authority.issue("server"))
    tls.verify_mode = ssl.CERT_REQUIRED
    certificate, key = authority.issue("client")
    known = Security(
        ca_file=authority.file, client_certificate_file=certificate, client_key_file=key
    )
    async with answering(200, '[{"id": "a"}]', tls) as port:
        url = f"https://127.0.0.1:{port}/v1"
        assert (await asked(HttpServer(url, known))).names == ("a",)
        assert await failure_of(HttpServer(url, Security(ca_file=authority.file)))

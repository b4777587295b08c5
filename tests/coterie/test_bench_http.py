"""The driver for OpenAI-style servers, against the gateway's HTTP door and worse ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coterie.benchmark.driver import Manner
from coterie.benchmark.openai_http import OpenAIHttpDriver, piece_of
from coterie.benchmark.types import Ask, Counts, Piece
from coterie.errors import (
    CoterieError,
    DeadlineError,
    InvalidArgumentError,
    UnavailableError,
    UnknownModelError,
)
from infra.errors import CapacityError
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.server import serving

pytestmark = pytest.mark.asyncio

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def driving(service: FakeService, **manner: Any) -> AsyncIterator[OpenAIHttpDriver]:
    async with serving(service) as address:
        driver = OpenAIHttpDriver(f"{address}/v1", Manner(**manner))
        try:
            yield driver
        finally:
            await driver.close()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that says this, whatever it is asked, and hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def failure_of(url: str, **manner: Any) -> CoterieError:
    driver = OpenAIHttpDriver(url, Manner(model="tiny", **manner))
    try:
        with pytest.raises(CoterieError) as caught:
            _ = [piece async for piece in driver.stream(Ask("a", 2))]
    finally:
        await driver.close()
    return caught.value


@pytest.mark.parametrize("is_chat", [False, True])
async def test_an_answer_comes_in_pieces_and_the_counts_with_the_last(is_chat: bool) -> None:
    service = FakeService(text_deltas("one", "two", num_cached_tokens=1))
    async with driving(service, is_chat=is_chat, ignore_eos=True, temperature=0) as driver:
        await driver.prepare()
        pieces = [piece async for piece in driver.stream(Ask("ab", 9))]
    assert sum(piece.has_output for piece in pieces) == 2
    num_prompt = len(b"user: ab\n") if is_chat else len(b"ab")
    assert pieces[-1] == Piece(has_output=False, counts=Counts(num_prompt, 6, 1))
    sampling = service.last_call.sampling
    assert (sampling.max_tokens, sampling.ignore_eos, sampling.temperature) == (9, True, 0)


async def test_the_only_model_is_found() -> None:
    service = FakeService(text_deltas("one"))
    async with driving(service) as driver:
        await driver.prepare()
        _ = [piece async for piece in driver.stream(Ask("a", 1))]
    assert service.last_call.model == "tiny"


async def test_of_several_models_one_must_be_chosen() -> None:
    service = FakeService(cards=[model_card("a"), model_card("b")])
    async with driving(service) as driver:
        with pytest.raises(UnknownModelError, match="--model: a, b"):
            await driver.prepare()


async def test_a_refusal_has_the_servers_own_word() -> None:
    service = FakeService(refusal=CapacityError("no room"))
    async with serving(service) as address:
        error = await failure_of(f"{address}/v1")
    assert (error.kind, str(error)) == ("overloaded", "no room")


async def test_a_failure_within_the_stream_is_raised_after_what_came() -> None:
    service = FakeService([*text_deltas("one")[:1], CapacityError("full")])
    async with driving(service, model="tiny") as driver:
        stream = driver.stream(Ask("a", 2))
        assert (await anext(stream)).has_output
        with pytest.raises(CoterieError, match="full") as caught:
            _ = [piece async for piece in stream]
    assert caught.value.kind == "overloaded"


async def test_leaving_early_ends_the_request() -> None:
    service = FakeService([*text_deltas("one", "two")[:1], asyncio.Event()])
    async with driving(service, model="tiny") as driver:
        task = asyncio.create_task(_first_and_on(driver))
        while not service.open_ids:
            await asyncio.sleep(0.001)
        task.cancel()
        await service.wait_aborted()


async def _first_and_on(driver: OpenAIHttpDriver) -> None:
    _ = [piece async for piece in driver.stream(Ask("a", 2))]


async def test_an_answer_that_takes_too_long_is_a_deadline() -> None:
    service = FakeService([asyncio.Event()])
    async with serving(service) as address:
        error = await failure_of(f"{address}/v1", timeout_s=0.2)
    assert isinstance(error, DeadlineError)


async def test_where_nothing_listens_the_driver_says_so() -> None:
    async with answering(b"") as url:
        pass
    error = await failure_of(url)
    assert isinstance(error, UnavailableError)
    assert "nothing answers at" in str(error)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"", "unavailable", "ended before the answer did"),
        (SSE_HEAD + b'data: {"choices": []}\n\n', "unavailable", r"before \[DONE\]"),
        (SSE_HEAD + b"data: {no json\n\n", "internal", "no such event"),
        (SSE_HEAD + b'data: {"error": {"message": "x"}}\n\n', "internal", "x"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\noops", "http_502", "oops"),
    ],
)
async def test_a_broken_answer_is_a_failure_of_its_kind(
    answer: bytes, kind: str, message: str
) -> None:
    async with answering(answer) as url:
        error = await failure_of(url)
    assert error.kind == kind
    with pytest.raises(CoterieError, match=message):
        raise error


async def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="http://"):
        OpenAIHttpDriver("localhost:8000", Manner())


@pytest.mark.parametrize(
    ("choice", "has_output"),
    [
        ({"text": "a"}, True),
        ({"text": ""}, False),
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"content": "a"}}, True),
        ({"delta": {"reasoning_content": "a"}}, True),
        ({"delta": {"tool_calls": [{}]}}, True),
    ],
)
async def test_output_is_told_from_other_events(
    choice: dict[str, Any], has_output: bool
) -> None:
    assert piece_of({"choices": [choice]}) == Piece(has_output)

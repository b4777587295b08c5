"""Both ends of a link, over a real connection, with an engine that only counts."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from deployments.engine import load_book
from deployments.engine.link_server import LinkServer
from deployments.gateway import link as link_module
from deployments.gateway.link import Link
from deployments.replica_lost import ReplicaLostError
from deployments.types import Call, Delta, Sampling
from deployments.wire import decode_downlink
from infra.errors import (
    CoterieError,
    DeadlineError,
    EngineError,
    InvalidArgumentError,
    NoReplicaError,
    classes_by_kind,
)
from tests.builders.fake_engine import FakeEngine
from tests.builders.until import until

TOKEN = "secret"


def call(request_id: str = "r", *, max_tokens: int = 3, first: int = 1) -> Call:
    return Call(request_id, [first, 2], Sampling(max_tokens=max_tokens))


@asynccontextmanager
async def linked(engine: FakeEngine) -> AsyncIterator[tuple[LinkServer, Link]]:
    server = LinkServer(engine, TOKEN)
    port = await server.start("127.0.0.1")
    async with Link(f"127.0.0.1:{port}", TOKEN) as link:
        async with asyncio.timeout(10):
            await link.wait_up()
        yield server, link
        link.check_invariants()
    await server.stop()
    server.check_invariants()
    assert not engine.open_request_ids


async def test_a_calls_deltas_arrive_in_order_and_end() -> None:
    async with linked(FakeEngine()) as (_, link):
        texts = [delta.text async for delta in link.run(call(), 5)]
        assert texts == ["0 ", "1 ", "2 "]
        assert link.num_open_calls == 0


async def test_calls_on_one_link_do_not_mix() -> None:
    async def tokens(link: Link, n: int) -> list[int]:
        return [d.token_ids[0] async for d in link.run(call(f"r{n}", max_tokens=n), 5)]

    async with linked(FakeEngine()) as (_, link):
        found = await asyncio.gather(*(tokens(link, n) for n in range(1, 40)))
        assert found == [list(range(n)) for n in range(1, 40)]


async def test_leaving_a_call_early_aborts_it_in_the_engine() -> None:
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (server, link):
        async with aclosing(link.run(call("early", max_tokens=100), 5)) as deltas:
            first = asyncio.ensure_future(anext(deltas))
            await until(lambda: engine.open_request_ids)
            engine.step()
            await first
        await until(lambda: not engine.open_request_ids)
        assert engine.aborted_request_ids == ["early"]
        await until(lambda: server.num_open_calls == 0)


async def test_a_deadline_aborts_the_call_while_the_engine_is_silent() -> None:
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (_, link):
        with pytest.raises(DeadlineError):
            await anext(link.run(call("late"), 0.05))
        await until(lambda: engine.aborted_request_ids == ["late"])


async def test_a_refusal_by_the_engine_keeps_its_kind_and_field() -> None:
    async with linked(FakeEngine()) as (_, link):
        with pytest.raises(InvalidArgumentError, match="unlucky") as refused:
            await anext(link.run(call(first=13), 5))
        assert refused.value.param == "prompt"


async def test_everything_of_one_step_comes_as_one_frame() -> None:
    engine = FakeEngine(is_free_running=False)
    frames: list[int] = []
    async with linked(engine) as (_, link):
        received = link.received

        def counted(data: bytes) -> None:
            message = decode_downlink(data)
            if isinstance(message, list):
                frames.append(len(message))
            received(data)

        link.received = counted  # type: ignore[method-assign]
        runs = [asyncio.ensure_future(anext(link.run(call(f"r{n}"), 5))) for n in range(20)]
        await until(lambda: len(engine.open_request_ids) == 20)
        engine.step()
        await asyncio.gather(*runs)
        assert frames == [20]


async def test_when_the_engine_replica_goes_its_calls_fail_and_the_link_is_down() -> None:
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (server, link):
        waiting = asyncio.ensure_future(anext(link.run(call(), 5)))
        await until(lambda: engine.open_request_ids)
        await server.stop()
        with pytest.raises(ReplicaLostError, match="try again") as lost:
            await waiting
        assert not lost.value.was_silent
        await until(lambda: not link.is_up)
        with pytest.raises(NoReplicaError):
            await anext(link.run(call(), 5))


async def test_when_nothing_comes_from_the_engine_replica_its_calls_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_book, "MAX_REPORT_S", 60)
    monkeypatch.setattr(link_module, "MAX_REPORT_S", 0.02)
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (_, link):
        with pytest.raises(ReplicaLostError, match="try again") as lost:
            await anext(link.run(call(), 5))
        assert lost.value.was_silent and not link.is_up
        await until(lambda: not engine.open_request_ids)
        # It is tried again.
        await until(lambda: link.is_up)


async def test_a_gateway_that_stood_still_itself_keeps_its_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_book, "MAX_REPORT_S", 0.01)
    monkeypatch.setattr(link_module, "MAX_REPORT_S", 0.02)
    async with linked(FakeEngine(is_free_running=False)) as (_, link):
        waiting = asyncio.ensure_future(anext(link.run(call(), 30)))
        time.sleep(1.0)  # noqa: ASYNC251 - the loop is to stand still
        await asyncio.sleep(0.5)
        assert link.is_up and not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_when_the_gateway_goes_the_engine_frees_its_calls() -> None:
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (_, link):
        waiting = asyncio.ensure_future(anext(link.run(call("orphan"), 5)))
        await until(lambda: engine.open_request_ids)
        await link.close()
        await until(lambda: engine.aborted_request_ids == ["orphan"])
        with pytest.raises(EngineError):
            await waiting


async def test_a_draining_engine_refuses_new_calls_and_finishes_open_ones() -> None:
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (server, link):
        run = link.run(call(max_tokens=1), 5)
        open_one = asyncio.ensure_future(anext(run))
        await until(lambda: engine.open_request_ids)
        draining = asyncio.ensure_future(server.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(NoReplicaError, match="draining"):
            await anext(link.run(call("new"), 5))
        engine.step()
        assert (await open_one).finish_reason == "length"
        await draining


async def test_a_wrong_token_gets_no_link() -> None:
    server = LinkServer(FakeEngine(), TOKEN)
    port = await server.start("127.0.0.1")
    async with Link(f"127.0.0.1:{port}", "guess") as link:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await link.wait_up()
    await server.stop()


class FailingEngine(FakeEngine):
    """Raises this error at every call."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error: Exception | None = error

    async def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        if self._error is not None:
            raise self._error
        yield Delta(0, "", []), True


@pytest.mark.parametrize("cls", classes_by_kind().values())
async def test_every_kind_of_failure_crosses_the_link(cls: type[CoterieError]) -> None:
    error = cls("words", param="p", retry_after_s=7)
    async with linked(FailingEngine(error)) as (_, link):
        with pytest.raises(CoterieError) as failed:
            await anext(link.run(call(), 5))
    found = failed.value
    assert (type(found), found.message, found.param, found.retry_after_s) == (
        cls,
        "words",
        "p",
        7,
    )


async def test_a_mistake_in_the_engine_replica_is_told_as_internal() -> None:
    async with linked(FailingEngine(KeyError("secret"))) as (_, link):
        with pytest.raises(CoterieError, match="internal error: KeyError") as failed:
            await anext(link.run(call(), 5))
    assert type(failed.value) is CoterieError


async def test_a_call_that_cannot_be_put_into_bytes_leaves_nothing_behind() -> None:
    async with linked(FakeEngine()) as (_, link):
        garbled = Call("r", [1], Sampling(stop=("\ud800",)))
        with pytest.raises(UnicodeEncodeError):
            await anext(link.run(garbled, 5))
        assert link.num_open_calls == 0


async def test_frames_that_are_no_message_end_the_link_and_fail_its_calls() -> None:
    engine = FakeEngine(is_free_running=False)
    async with linked(engine) as (server, link):
        waiting = asyncio.ensure_future(anext(link.run(call(), 5)))
        await until(lambda: engine.open_request_ids)
        for garbled in server._links:
            garbled.connection.send(b"\xc1nonsense")
        with pytest.raises(EngineError, match="try again"):
            await waiting
        await until(lambda: not engine.open_request_ids)

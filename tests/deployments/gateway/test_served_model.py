"""Which replica takes a call, and what happens to those that turn it away."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from deployments.engine.link_server import LinkServer
from deployments.gateway.served_model import ServedModel, replica_wait_s
from deployments.gateway.tokenizer import Tokenizer
from deployments.settings import ModelSection
from deployments.types import Call, Delta, Sampling
from infra.errors import DeadlineError, EngineError, NoReplicaError
from router.settings import RouterSection
from tests.builders.fake_engine import FakeEngine

TOKEN = "secret"


class LeavingEngine(FakeEngine):
    """Turns every call away, after `wait_s`."""

    def __init__(self, wait_s: float = 0) -> None:
        super().__init__()
        self.num_asked = 0
        self._error: Exception | None = NoReplicaError("leaving")
        self._wait_s = wait_s

    async def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        self.num_asked += 1
        await asyncio.sleep(self._wait_s)
        if self._error is not None:
            raise self._error
        yield Delta(0, "", []), True


@asynccontextmanager
async def served_by(
    *engines: FakeEngine,
) -> AsyncIterator[tuple[ServedModel, list[LinkServer]]]:
    servers = [LinkServer(engine, TOKEN) for engine in engines]
    ports = [await server.start("127.0.0.1") for server in servers]
    tokenizer = cast(Tokenizer, SimpleNamespace(vocab_size=100, has_chat_template=False))
    section = ModelSection(name="m", model="some/model")
    router = RouterSection(policy="least_loaded", replica_wait_s=0.5)
    model = ServedModel(section, tokenizer, TOKEN, router)
    model.set_replicas(
        {
            f"replica-{number}": {
                "address": f"127.0.0.1:{port}",
                "max_model_len": 100,
                "vocab_size": 100,
            }
            for number, port in enumerate(ports)
        }
    )
    async with asyncio.timeout(5):
        while model.num_ready_replicas < len(engines):
            await asyncio.sleep(0.005)
    yield model, servers
    model.check_invariants()
    await model.close()
    for server in servers:
        await server.stop()


async def tokens_of(model: ServedModel, request_id: str, timeout_s: float = 5) -> list[int]:
    call = Call(request_id, [1, 2], Sampling(max_tokens=2))
    return [token async for delta in model.run(call, timeout_s) for token in delta.token_ids]


async def test_calls_are_spread_over_the_replicas() -> None:
    engines = [FakeEngine(is_free_running=False) for _ in range(2)]
    async with served_by(*engines) as (model, _):
        calls = [asyncio.create_task(tokens_of(model, f"r{n}")) for n in range(6)]
        await asyncio.sleep(0.1)
        assert [len(engine.open_request_ids) for engine in engines] == [3, 3]
        for _ in range(2):
            for engine in engines:
                engine.step()
            await asyncio.sleep(0.05)
        assert await asyncio.gather(*calls) == [[0, 1]] * 6


async def test_a_replica_that_turns_calls_away_is_passed_over_unseen() -> None:
    async with served_by(FakeEngine(), FakeEngine()) as (model, servers):
        await servers[0].drain(0)
        found = await asyncio.gather(*(tokens_of(model, f"r{n}") for n in range(8)))
        assert found == [[0, 1]] * 8


async def test_a_replica_that_turned_a_call_away_is_not_asked_again() -> None:
    leaving = LeavingEngine()
    async with served_by(leaving, FakeEngine(), FakeEngine()) as (model, _):
        for number in range(9):
            assert await tokens_of(model, f"r{number}") == [0, 1]
        assert leaving.num_asked == 1
        assert (model.num_ready_replicas, model.num_places) == (
            2,
            2 * model.section.max_num_seqs,
        )


async def test_a_replica_that_turned_a_call_away_is_asked_again_once_its_link_is_back() -> None:
    leaving = LeavingEngine()
    async with served_by(leaving, FakeEngine()) as (model, (server, _)):
        for number in range(3):
            await tokens_of(model, f"r{number}")
        for link in list(server._links):
            link.connection.close()
        async with asyncio.timeout(5):
            while model.num_ready_replicas < 2:
                await asyncio.sleep(0.005)
        for number in range(3):
            await tokens_of(model, f"s{number}")
        assert leaving.num_asked == 2


async def test_after_a_late_refusal_a_call_waits_only_for_what_is_left_of_its_time() -> None:
    async with served_by(LeavingEngine(wait_s=0.3)) as (model, _):
        begun_s = time.monotonic()
        with pytest.raises(DeadlineError):
            await tokens_of(model, "r", timeout_s=0.4)
        assert time.monotonic() - begun_s < 2


async def test_a_call_that_every_replica_turns_away_has_not_begun() -> None:
    begun: list[bool] = []
    async with served_by(LeavingEngine()) as (model, _):
        call = Call("r", [1, 2], Sampling(max_tokens=2))
        with pytest.raises(DeadlineError):
            async for _ in model.run(call, 0.3, begun.append):
                pass
    assert begun == [True, False]


async def test_a_model_that_closes_ends_the_links_to_replicas_that_were_leaving_too() -> None:
    engine = FakeEngine(is_free_running=False)
    async with served_by(engine) as (model, _):
        call = asyncio.create_task(tokens_of(model, "r"))
        async with asyncio.timeout(5):
            while not engine.open_request_ids:
                await asyncio.sleep(0.005)
        before = asyncio.all_tasks()
        model.set_replicas({})
        await asyncio.sleep(0.05)
        await model.close()
        with pytest.raises(EngineError):
            async with asyncio.timeout(5):
                await call
        assert asyncio.all_tasks() <= before


async def test_when_all_turn_a_call_away_it_fails_as_having_no_replica() -> None:
    async with served_by(FakeEngine(), FakeEngine()) as (model, servers):
        for server in servers:
            await server.drain(0)
        with pytest.raises(NoReplicaError):
            await tokens_of(model, "r")


async def test_a_call_waits_for_the_replica_that_takes_the_place_of_a_draining_one() -> None:
    async with served_by(FakeEngine()) as (model, (leaving,)):
        await leaving.drain(0)
        call = asyncio.create_task(tokens_of(model, "r"))
        await asyncio.sleep(0.1)
        coming = LinkServer(FakeEngine(), TOKEN)
        port = await coming.start("127.0.0.1")
        address = {"address": f"127.0.0.1:{port}", "max_model_len": 100, "vocab_size": 100}
        model.set_replicas({"replica-new": address})
        assert await call == [0, 1]
        await coming.stop()


async def test_the_first_replica_s_link_is_waited_for() -> None:
    async with served_by() as (model, _):
        waiting = asyncio.create_task(model.wait_ready())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with served_by(FakeEngine()) as (ready, _):
            await ready.wait_ready()
            address = next(iter(ready._links.values())).address
            listed = {"address": address, "max_model_len": 100, "vocab_size": 100}
            model.set_replicas({"replica-0": listed})
            async with asyncio.timeout(5):
                await waiting


async def test_a_call_does_not_wait_for_a_replica_beyond_its_deadline() -> None:
    async with served_by(FakeEngine()) as (model, (leaving,)):
        await leaving.drain(0)
        with pytest.raises(DeadlineError):
            await tokens_of(model, "r", timeout_s=0.1)


async def test_a_call_that_has_begun_is_not_tried_a_second_time() -> None:
    # It may be the very call that ends engines.
    engines = [FakeEngine(is_free_running=False) for _ in range(2)]
    async with served_by(*engines) as (model, servers):
        call = asyncio.create_task(tokens_of(model, "r"))
        await asyncio.sleep(0.1)
        (begun,) = [n for n, engine in enumerate(engines) if engine.open_request_ids]
        await servers[begun].stop()
        with pytest.raises(EngineError):
            await call
        assert not engines[1 - begun].open_request_ids


async def test_where_a_request_brings_an_engine_it_waits_for_as_long_as_that_may_start() -> (
    None
):
    server = LinkServer(FakeEngine(), TOKEN)
    port = await server.start("127.0.0.1")
    told = SimpleNamespace(vocab_size=100, has_chat_template=False, has_tool_template=False)
    tokenizer = cast(Tokenizer, told)
    section = ModelSection(name="m", model="some/model", min_replicas=0, max_model_len=100)
    model = ServedModel(section, tokenizer, TOKEN, RouterSection(replica_wait_s=0.01))
    assert (model.has_replicas, model.max_model_len, model.vocab_size) == (False, 100, 100)
    (card,) = model.cards()
    assert (card.num_ready_replicas, card.can_answer) == (0, True)
    asked = asyncio.create_task(tokens_of(model, "r"))
    await asyncio.sleep(0.2)
    assert not asked.done()
    replica = {"address": f"127.0.0.1:{port}", "max_model_len": 100, "vocab_size": 100}
    seen = []
    for replicas in ({"replica-0": replica}, {}):
        model.set_replicas(replicas)
        seen.append(model.has_replicas)
        if replicas:
            assert await asked == [0, 1]
    assert seen == [True, False]
    await model.close()
    await server.stop()


def test_how_long_a_request_waits_for_an_engine_follows_from_how_one_comes() -> None:
    router = RouterSection(replica_wait_s=7)
    fields = {"name": "m", "model": "some/model", "startup_timeout_s": 90, "max_model_len": 8}
    assert replica_wait_s(ModelSection.model_validate(fields), router) == 7
    asleep = ModelSection.model_validate(fields | {"min_replicas": 0})
    assert replica_wait_s(asleep, router) == 90

"""Streams whose engine replica goes, over real links: they go on with the other one."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from deployments.engine.link_server import LinkServer
from deployments.gateway.resume import ResumableCall
from deployments.gateway.served_model import ServedModel
from deployments.types import Call, Sampling
from tests.builders.fake_engine import FakeEngine
from tests.builders.until import until
from tests.deployments.gateway.test_served_model import served_by

Lose = Callable[[LinkServer], Coroutine[Any, Any, None]]
NUM_TOKENS = 6
WHOLE = list(range(NUM_TOKENS))
TEXT = "0 1 2 3 4 5 "


class Stream:
    """One request, and what its client has of it."""

    def __init__(self, model: ServedModel, number: int) -> None:
        sampling = Sampling(max_tokens=NUM_TOKENS, temperature=0)
        self.resumable = ResumableCall(model, Call(f"r{number}", [1, 2], sampling), 2)
        self.token_ids: list[int] = []
        self.text = ""
        self.has_begun: list[bool] = []

    async def run(self) -> None:
        async for delta in self.resumable.deltas(20, self.has_begun.append):
            self.token_ids += delta.token_ids
            self.text += delta.text


def have_more_than(num_tokens: int, streams: Sequence[Stream]) -> bool:
    return all(len(stream.token_ids) > num_tokens for stream in streams)


async def through_a_loss(lose: Lose) -> list[Stream]:
    """Eight streams over two replicas, of which one goes after each has two tokens."""
    engines = [FakeEngine(is_free_running=False) for _ in range(2)]
    async with served_by(*engines) as (model, servers):
        streams = [Stream(model, number) for number in range(8)]
        runs = [asyncio.create_task(stream.run()) for stream in streams]
        for num_tokens in range(2):
            await until(lambda: sum(len(e.open_request_ids) for e in engines) == 8, 10)
            for engine in engines:
                engine.step()
            await until(partial(have_more_than, num_tokens, streams), 10)
        losing = asyncio.ensure_future(lose(servers[0]))
        await until(lambda: len(engines[1].open_request_ids) == 8, 10)
        engines[1].is_free_running = True
        engines[1].step()
        await asyncio.gather(*runs, losing)
        assert len(engines[0].aborted_request_ids) == 4
    return streams


async def check_all_are_whole(lose: Lose) -> None:
    streams = await through_a_loss(lose)
    assert [(s.token_ids, s.text) for s in streams] == [(WHOLE, TEXT)] * 8
    outcomes = [[resume.outcome for resume in s.resumable.resumes] for s in streams]
    assert sorted(outcomes) == [[]] * 4 + [["continue"]] * 4
    assert all(s.has_begun == [True] for s in streams)


async def test_streams_of_a_replica_that_dies_go_on_with_the_other_one() -> None:
    await check_all_are_whole(LinkServer.stop)


async def test_streams_that_outlive_a_drain_are_handed_over() -> None:
    async def drain(server: LinkServer) -> None:
        await server.drain(0.05)
        await server.stop()

    await check_all_are_whole(drain)

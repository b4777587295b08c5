"""What is made of an answer that is given whole counts as it is made."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from deployments.engine.link_server import LinkServer
from deployments.gateway.link import Link
from deployments.gateway.whole import whole_outputs
from deployments.types import Call, CallOptions, Delta, Sampling
from tests.builders.fake_service import FakeService, text_deltas

TOKEN = "a secret of sixteen"


class Endless:
    """An engine that makes a token in each turn, for ever."""

    async def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """See `CallRunner`."""
        number = 0
        while True:
            await asyncio.sleep(0)
            yield Delta(index=0, text="x", token_ids=[number]), False
            number += 1


@pytest.mark.parametrize(("stream", "num_tokens"), [(True, 1), (False, 32)])
async def test_pieces_of_a_whole_answer_are_larger(stream: bool, num_tokens: int) -> None:
    links = LinkServer(Endless(), TOKEN)
    port = await links.start("127.0.0.1")
    async with Link(f"127.0.0.1:{port}", TOKEN) as link:
        await link.wait_up()
        call = Call("r", [1], Sampling(max_tokens=10**6), stream=stream)
        async with aclosing(link.run(call, 5)) as deltas:
            first, second = await anext(deltas), await anext(deltas)
    assert (len(first.token_ids), len(second.token_ids)) == (num_tokens, num_tokens)
    assert second.token_ids[0] == num_tokens
    await links.stop()


async def test_whole_outputs_are_joined_by_index() -> None:
    second, first = text_deltas("o", "ther", index=1), text_deltas("Hel", "lo")
    service = FakeService([second[0], first[0], second[1], first[1]])
    generation = await service.generate("tiny", "a", Sampling(n=2), CallOptions())
    assert [(d.index, d.text) for d in await whole_outputs(generation)] == [
        (0, "Hello"),
        (1, "other"),
    ]

"""Greedy streams through a cluster's doors, with what their clients hear and when."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie import AsyncClient
from tests.bench.event_client import EventClient


@dataclass
class Heard:
    """What one client got of its stream."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    """None of them come by HTTP."""
    finish_reason: str | None = None
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    times_s: list[float] = field(default_factory=list, compare=False)
    """When its pieces came, by the monotonic clock."""

    def gap_s(self, moment_s: float) -> float:
        """Between the last piece before the moment and the first one after it."""
        before = [t for t in self.times_s if t <= moment_s]
        after = [t for t in self.times_s if t > moment_s]
        return after[0] - before[-1] if before and after else 0.0


def prompt_for(number: int) -> list[int]:
    """Of no meaning, and another one for each number. Shape: [12]."""
    return [100 + (number * 37 + place * 101) % 4000 for place in range(12)]


async def by_grpc(client: AsyncClient, number: int, num_tokens: int, heard: Heard) -> None:
    """Stream `coterie.v1`'s answer to the prompt into `heard`."""
    stream = client.generate(
        prompt_for(number),
        max_tokens=num_tokens,
        ignore_eos=True,
        temperature=0,
        timeout_s=300,
    )
    async for chunk in stream:
        heard.times_s.append(time.monotonic())
        heard.text += chunk.text
        heard.token_ids += chunk.token_ids
        heard.finish_reason = chunk.finish_reason or heard.finish_reason
        if chunk.usage is not None:
            heard.num_prompt_tokens = chunk.usage.num_prompt_tokens
            heard.num_output_tokens = chunk.usage.num_output_tokens


async def by_http(
    client: EventClient, model: str, number: int, num_tokens: int, heard: Heard
) -> None:
    """Stream `/v1/completions`' answer to the prompt into `heard`."""
    body = {
        "model": model,
        "prompt": prompt_for(number),
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async for event in client.post("/v1/completions", body):
        if event == b"[DONE]":
            continue
        heard.times_s.append(time.monotonic())
        told = json.loads(event)
        assert "error" not in told, told
        for choice in told["choices"]:
            heard.text += choice["text"]
            heard.finish_reason = choice["finish_reason"] or heard.finish_reason
        if told.get("usage"):
            heard.num_prompt_tokens = told["usage"]["prompt_tokens"]
            heard.num_output_tokens = told["usage"]["completion_tokens"]


class CountedStreams:
    """One of each client, all under way at once; only their tokens are counted."""

    def __init__(self, clients: Sequence[AsyncClient], num_tokens: int) -> None:
        self.num_heard = [0] * len(clients)
        self._streams = [
            asyncio.create_task(self._hear(place, client, num_tokens))
            for place, client in enumerate(clients)
        ]

    async def all_have(self, num_tokens: int) -> None:
        """Wait until so many tokens of each have come; none of them may end before."""
        while min(self.num_heard) < num_tokens:
            assert not any(stream.done() for stream in self._streams)
            await asyncio.sleep(0.01)

    async def ends(self) -> list[int | BaseException]:
        """How many tokens each had at its end, or what it raised."""
        return await asyncio.gather(*self._streams, return_exceptions=True)

    async def _hear(self, place: int, client: AsyncClient, num_tokens: int) -> int:
        stream = client.generate(
            [5, 6, 7], max_tokens=num_tokens, ignore_eos=True, temperature=0, timeout_s=200
        )
        async for chunk in stream:
            self.num_heard[place] += len(chunk.token_ids)
        return self.num_heard[place]

"""Greedy streams through a cluster's doors, with what their clients hear and when."""

import json
import time
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

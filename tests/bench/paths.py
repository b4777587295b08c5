"""The ways to an engine that can be measured, each as a `Stream`.

| path             | from client to engine                                           |
|------------------|-----------------------------------------------------------------|
| direct           | none: vLLM's async engine driven in this process                |
| gateway          | `coterie.AsyncClient` -> gRPC -> gateway -> link -> engine      |
| gateway-http     | HTTP and events -> the same gateway -> link -> the same engine  |
| serve-llm        | HTTP and events -> Serve's proxy -> ingress -> Ray's LLM server |
| serve-llm-direct | HTTP and events -> HAProxy -> Ray's LLM server                  |
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from coterie import AsyncClient
from deployments.engine.cores import NodeCores, plan_cores
from deployments.engine.environment import engine_environment
from deployments.engine.plan import plan_engine_args, plan_placement, plan_thread_environment
from deployments.models.resolve import resolve_model
from deployments.settings import ModelSection
from deployments.types import Call, Sampling
from tests.bench.event_client import EventClient
from tests.bench.rounds import Stream
from tests.builders.cluster import STATE_DIR

if TYPE_CHECKING:
    from deployments.engine.engine import Engine

GATEWAY_PATHS = ("gateway", "gateway-http")
SERVE_LLM_PATHS = ("serve-llm", "serve-llm-direct")
PATHS = GATEWAY_PATHS + SERVE_LLM_PATHS
KEY_VARIABLE = "COTERIE_API_KEY"
"""Environment variable with the key that the gateway asks for, where it does."""


def open_path(name: str, address: str, model: str) -> AbstractAsyncContextManager[Stream]:
    """Streams of one of `PATHS`; `address` is `host:port` for gRPC, a URL for HTTP."""
    if name == "gateway":
        return through_grpc(address)
    return through_http(address, model)


@asynccontextmanager
async def bare_engine(section: ModelSection) -> AsyncIterator["Engine"]:
    """An engine in this process, which ends with the block."""
    path = resolve_model(section.model, STATE_DIR).path
    os.environ.update(engine_environment(STATE_DIR))
    from deployments.engine.engine import Engine  # noqa: PLC0415  (needs the environment)

    executor = plan_placement(section, "cpu").executor
    runs = plan_cores(section, NodeCores(sorted(os.sched_getaffinity(0))))
    os.environ.update(plan_thread_environment(runs))
    args = plan_engine_args(section, "cpu", path, executor)
    engine = await asyncio.to_thread(Engine.start, args, {})
    try:
        yield engine
    finally:
        engine.shutdown()


@asynccontextmanager
async def direct(section: ModelSection) -> AsyncIterator[Stream]:
    """Streams of a bare engine in this process, which ends with the block."""
    async with bare_engine(section) as engine:

        async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
            sampling = Sampling(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
            async for delta, _ in engine.run(Call(name, prompt, sampling)):
                yield len(delta.token_ids)

        yield stream


@asynccontextmanager
async def through_grpc(address: str) -> AsyncIterator[Stream]:
    """Streams of the gateway's gRPC door, by our own client."""
    # What is turned away is measured, not smoothed over.
    key = os.environ.get(KEY_VARIABLE)
    async with AsyncClient(address, api_key=key, max_retries=0) as client:

        async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
            chunks = client.generate(
                prompt, temperature=0.0, max_tokens=num_tokens, ignore_eos=True
            )
            async for chunk in chunks:
                yield len(chunk.token_ids)

        yield stream


@asynccontextmanager
async def through_http(url: str, model: str) -> AsyncIterator[Stream]:
    """Streams of an OpenAI server's `/v1/completions`.

    Events are counted by the server: their tokens are told by the usage that the
    last one carries. Asserts that there is one.
    """
    asked = {"model": model, "temperature": 0.0, "ignore_eos": True, "stream": True}
    asked |= {"stream_options": {"include_usage": True}}
    async with EventClient(url, os.environ.get(KEY_VARIABLE, "none")) as client:

        async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
            last = b"null"
            body = asked | {"prompt": prompt, "max_tokens": num_tokens}
            async for event in client.post("/v1/completions", body):
                yield 0
                last = last if event == b"[DONE]" else event
            told = json.loads(last)
            assert "usage" in told, f"{url} ended a stream with {told}"
            yield told["usage"]["completion_tokens"]

        yield stream

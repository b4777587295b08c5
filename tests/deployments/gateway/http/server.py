"""The door on a real socket, and the unmodified client on it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from openai import AsyncOpenAI

from deployments.gateway.http_door import http_app
from deployments.settings import GatewaySection
from tests.builders.fake_service import FakeService


@asynccontextmanager
async def serving(service: FakeService, **section: Any) -> AsyncIterator[str]:
    """Address of a uvicorn with the door; nothing may be open at the end."""
    app = http_app(service, GatewaySection(**section))
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
    service.check_invariants()


@asynccontextmanager
async def openai_client(service: FakeService, **section: Any) -> AsyncIterator[AsyncOpenAI]:
    """The unmodified client, without retries, on such a server."""
    async with serving(service, **section) as address:
        client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        async with client:
            yield client

"""The life of one request behind a path: decode, submit, answer whole or as events."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Generic

from starlette.types import Receive, Scope, Send

from deployments.gateway.http.exchange import ClientGoneError, Exchange
from deployments.gateway.openai.chat import ChatRequest
from deployments.gateway.openai.completion import CompletionRequest
from deployments.gateway.openai.decode import RequestDecoder, RequestT
from deployments.gateway.openai.response import DONE, Reply
from deployments.gateway.service import Generation, InferenceService
from deployments.gateway.whole import whole_outputs
from deployments.settings import GatewaySection
from deployments.types import CallOptions

Answer = Callable[[Exchange, CallOptions, RequestT], Awaitable[None]]


class BodyPath(Generic[RequestT]):
    """A path that takes a JSON body; what it does ends when the client leaves."""

    def __init__(
        self, decoder: RequestDecoder[RequestT], max_body_bytes: int, answer: Answer[RequestT]
    ) -> None:
        self._decoder = decoder
        self._max_body_bytes = max_body_bytes
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or tell why not."""
        exchange = Exchange(scope, receive, send)
        try:
            options = exchange.read_options()
            body = await exchange.read_body(self._max_body_bytes)
            await exchange.run_while_connected(self._decoded(exchange, options, body))
        except ClientGoneError:
            return
        except Exception as error:
            # The boundary of the process: every failure gets an answer, ours are logged.
            await exchange.fail(error, self._decoder.param_names)

    async def _decoded(self, exchange: Exchange, options: CallOptions, body: bytes) -> None:
        request = self._decoder.decode(body)
        await self._answer(exchange, request.in_session(options), request)


class GenerationAnswer:
    """What chat and completions do with a request."""

    def __init__(self, service: InferenceService, section: GatewaySection) -> None:
        self._service = service
        self._section = section

    async def __call__(
        self, exchange: Exchange, options: CallOptions, request: ChatRequest | CompletionRequest
    ) -> None:
        """Submit it, and answer whole or chunk by chunk."""
        usage_in = request.usage_in
        started = await request.start(self._service, options, self._section)
        generation = started.generation
        reply = Reply(
            started.shape,
            generation,
            num_outputs=request.num_outputs,
            num_prompts=started.num_prompts,
            usage_in=usage_in,
            created_s=int(time.time()),
        )
        if request.stream:
            await _stream(exchange, generation, reply)
        else:
            await _answer_whole(exchange, generation, reply)


async def _answer_whole(exchange: Exchange, generation: Generation, reply: Reply) -> None:
    await exchange.answer(200, reply.whole(await whole_outputs(generation)))


async def _stream(exchange: Exchange, generation: Generation, reply: Reply) -> None:
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            await exchange.write_event(reply.chunk(delta))
    if reply.has_usage_chunk:
        await exchange.write_event(reply.usage_chunk())
    await exchange.write_event(DONE)
    await exchange.end_events()

"""Bytes that are no message of the method end as INVALID_ARGUMENT.

gRPC's own answer to a request that it cannot read is UNKNOWN, which tells a client
nothing. Methods that read a stream of messages see to it themselves.
"""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from deployments.gateway.rpc.answer import Context, abort
from infra.errors import InvalidArgumentError

# As text: the class is generic for the type checker alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class GarbledRequests(grpc.aio.ServerInterceptor):
    """Makes each method answer for itself where its request cannot be read."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        known, made = self._made.get(handler_call_details.method, (None, None))
        if known is not handler:
            made = _tolerant(handler)
            self._made[handler_call_details.method] = handler, made
        return made


def _tolerant(handler: Any) -> Handler:
    """The same method; its request is None where it cannot be read."""
    read = handler.request_deserializer

    def read_or_none(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return None

    if handler.response_streaming:
        behaviour = handler.unary_stream
        # A method may also write its responses itself.
        wrap = _streaming if inspect.isasyncgenfunction(behaviour) else _whole
        return grpc.unary_stream_rpc_method_handler(
            wrap(behaviour), read_or_none, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        _whole(handler.unary_unary), read_or_none, handler.response_serializer
    )


def _streaming(behaviour: Callable[[Any, Any], Any]) -> Any:
    async def answer(request: Any, context: Context) -> AsyncGenerator[Any, None]:
        if request is None:
            await _refuse(context)
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return answer


def _whole(behaviour: Callable[[Any, Any], Any]) -> Any:
    async def answer(request: Any, context: Context) -> Any:
        if request is None:
            await _refuse(context)
        return await behaviour(request, context)

    return answer


async def _refuse(context: Context) -> None:
    await abort(context, InvalidArgumentError("the bytes sent are no message of this method"))

"""The guard of the gRPC doors: no handler runs before it knows who asks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import grpc

from deployments.gateway.caller import STRANGER, set_caller
from deployments.gateway.rpc.answer import Context, abort
from deployments.gateway.security.guard import (
    API_KEY,
    AUTHORIZATION,
    PRIORITY,
    Credentials,
    Guard,
)
from infra.errors import CoterieError

_FIRST_MESSAGE_WITHIN_S = 1.0
_HEALTH = "/grpc.health.v1.Health/"
# Probes of health carry no keys, and tell no more than that the server is up.
OPEN_METHODS = frozenset(
    {
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)

# As text: the class is generic for the type checker alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class GrpcGuard(grpc.aio.ServerInterceptor):
    """Sets the caller for the task that answers; refuses where there is none.

    gRPC awaits interceptors in the very task that then runs the handler, so what is
    set here reaches handlers of all kinds and the tasks that they start. Blocking
    handlers, such as reflection's, run on threads: they are guarded, and see no caller.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler, or one that refuses; None for an unknown method."""
        method = handler_call_details.method
        if method in OPEN_METHODS:
            set_caller(STRANGER)
            return await continuation(handler_call_details)
        if method.startswith(_HEALTH):
            self._guard.enter_open(_credentials(handler_call_details))
            return await continuation(handler_call_details)
        try:
            self._guard.enter(_credentials(handler_call_details))
        except CoterieError as error:
            return _refusal(error)
        return await continuation(handler_call_details)


def _credentials(details: grpc.HandlerCallDetails) -> Credentials:
    given = dict(details.invocation_metadata or ())
    return Credentials(
        _text(given.get(AUTHORIZATION)), _text(given.get(API_KEY)), _text(given.get(PRIORITY))
    )


def _text(value: str | bytes | None) -> str | None:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _refusal(error: CoterieError) -> Handler:
    """A handler that fits methods of any kind, since it looks into no message.

    It takes in the first one all the same: grpcio's asyncio client reports INTERNAL
    where a call ends while it sends, whatever status the call ended with.
    """

    async def refuse(messages: AsyncIterator[Any], context: Context) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_MESSAGE_WITHIN_S):
                await anext(messages, None)
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)

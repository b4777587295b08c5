"""What all gRPC doors share: what surrounds a request, and how it is answered.

With the result, that is, or with the status of its exception.
"""

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc

from deployments.gateway.caller import current_caller
from deployments.gateway.checks import check_request_id
from deployments.gateway.error_feed import answered
from deployments.gateway.rpc.error_details import status_message, trailing_metadata
from deployments.gateway.status import status_of
from deployments.types import CallOptions, Door
from infra.errors import CoterieError
from infra.telemetry.trace_context import TRACE_RESPONSE, carrier_in

REQUEST_ID_KEY = "x-request-id"
SESSION_KEY = "x-session-id"
_ABORT_WITHIN_S = 5.0

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


def call_options(
    context: Context, request_id: str = "", *, stream: bool = True, door: Door = "grpc"
) -> CallOptions:
    """Who asks, under which id, until when. The metadata's id counts where none is given.

    Raises InvalidArgumentError for an id that cannot stand in a log.
    """
    metadata = tuple(context.invocation_metadata() or ())
    if not request_id:
        request_id = str(dict(metadata).get(REQUEST_ID_KEY, ""))
    if request_id:
        check_request_id(request_id)
    caller = current_caller()
    return CallOptions(
        request_id=request_id or None,
        timeout_s=context.time_remaining(),
        stream=stream,
        tenant=caller.tenant,
        priority=caller.priority,
        door=door,
        trace=carrier_in(metadata),
        on_trace=partial(_add_trace, context),
        session=str(dict(metadata).get(SESSION_KEY, "")) or None,
    )


def _add_trace(context: Context, trace: str) -> None:
    """Of several requests on one stream, the first one's counts."""
    if not context.trailing_metadata():
        context.set_trailing_metadata(((TRACE_RESPONSE, trace),))


async def answer(context: Context, work: Awaitable[T]) -> T:
    """The result, or the status that stands for its exception."""
    try:
        return await work
    except Exception as error:  # the boundary of the process
        await fail(context, error)


async def fail(context: Context, error: Exception) -> NoReturn:
    """End the call with the error's status; a mistake of ours is logged, not explained."""
    if not isinstance(error, CoterieError):
        log.error("request failed", exc_info=error)
        error = CoterieError("internal error; the gateway's log has more")
    await abort(context, error)


async def abort(context: Context, error: CoterieError) -> NoReturn:
    """End the call with the status that stands for the error."""
    answered(error.kind, "grpc")
    code = status_of(error).grpc_code
    message = status_message(error)
    # What was set before, the trace's id, would be lost.
    metadata = (*(context.trailing_metadata() or ()), *trailing_metadata(error))
    try:
        async with asyncio.timeout(_ABORT_WITHIN_S):
            await context.abort(code, message, trailing_metadata=metadata)
    except TimeoutError:
        # It follows what the client has not taken yet; gRPC keeps it until then, and
        # takes no other end of the handler quietly.
        raise asyncio.CancelledError from None

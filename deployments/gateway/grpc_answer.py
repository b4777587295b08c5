"""How every gRPC door answers: with the result, or with the status of its exception."""

import logging
from collections.abc import Awaitable
from typing import Any, NoReturn, TypeVar

import grpc

from deployments.gateway.error_details import MAX_MESSAGE_CHARS, trailing_metadata
from deployments.gateway.status import status_of
from infra.errors import CoterieError

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


async def answer(context: Context, work: Awaitable[T]) -> T:
    """The result, or the status that stands for its exception."""
    try:
        return await work
    except CoterieError as error:
        await abort(context, error)
    except Exception:  # the boundary of the process: the client gets no traceback
        log.exception("request failed")
        await abort(context, CoterieError("internal error; the gateway's log has more"))


async def abort(context: Context, error: CoterieError) -> NoReturn:
    """End the call with the status that stands for the error."""
    code = status_of(error).grpc_code
    message = error.message[:MAX_MESSAGE_CHARS]
    await context.abort(code, message, trailing_metadata=trailing_metadata(error))

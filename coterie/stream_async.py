"""A stream of the asyncio client. `stream` is the same with blocking calls."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, cast

import grpc

from coterie import responses
from coterie.connection import Connection
from coterie.errors import FailedCall, UnavailableError
from coterie.repetition import Repetition
from coterie.retry import Attempts
from coterie.types import Chunk, Usage


class AsyncStream:
    """The chunks of one request as they arrive; iterate it once.

    Leaving early (`break`, an exception, a cancelled task, the end of an
    `async with` block, dropping the last reference) cancels the request in
    the cluster. `usage` is None until the last chunk has come.
    """

    def __init__(
        self,
        open_call: Callable[[float | None], Any],
        connection: Connection,
        tries: Attempts,
        repetition: Repetition,
    ) -> None:
        self._is_cancelled = asyncio.Event()
        self._call: Any = None
        self._open_call = open_call
        self._connection = connection
        self._tries = tries
        self._repetition = repetition
        self.usage: Usage | None = None
        self._begin()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        message = await self._next_message()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        chunk = responses.chunk_of(message)
        self.usage = chunk.usage or self.usage
        return chunk

    def cancel(self) -> None:
        """End the request; iteration stops, in another task too. After the
        end of the stream it does nothing."""
        self._is_cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def _begin(self) -> None:
        with self._connection.beginning():
            self._call = self._open_call(self._tries.left_s)

    async def _next_message(self) -> Any:
        while True:
            try:
                message = await self._call.read()
            except asyncio.CancelledError:
                if self._is_cancelled.is_set() and not _is_task_cancelled():
                    raise StopAsyncIteration from None
                raise
            except grpc.RpcError as error:
                await self._wait_to_retry(error)
                self._begin()
                continue
            self._tries.note_answer()
            if message is grpc.aio.EOF:
                return message
            try:
                rest = self._repetition.rest_of(message)
            except UnavailableError:
                self._call.cancel()
                raise
            if rest is not None:
                return rest

    async def _wait_to_retry(self, failed: grpc.RpcError) -> None:
        """Raises the failure's error where the request is not to be sent again."""
        error = self._connection.error(cast(FailedCall, failed), self._tries.timeout_s)
        delay_s = self._tries.next_delay_s(error, self._repetition)
        if delay_s is None:
            raise error from failed
        self._repetition.begin_again(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._is_cancelled.wait()
        if self._is_cancelled.is_set():
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed already
            self.cancel()


def _is_task_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""A stream of the blocking client. `stream_async` is the same for asyncio."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, cast

import grpc

from coterie import responses
from coterie.connection import Connection
from coterie.errors import FailedCall
from coterie.retry import Attempts
from coterie.types import Chunk, Usage
from coterie.v1 import inference_pb2 as pb


class Stream:
    """The chunks of one request as they arrive; iterate it once.

    Leaving early (`break`, an exception, the end of a `with` block, dropping
    the last reference) cancels the request in the cluster. `usage` is None
    until the last chunk has come.
    """

    def __init__(
        self, open_call: Callable[[float | None], Any], connection: Connection, tries: Attempts
    ) -> None:
        self._is_cancelled = threading.Event()
        self._call: Any = None
        self._open_call = open_call
        self._connection = connection
        self._tries = tries
        self._has_begun = False
        self.usage: Usage | None = None
        self._begin()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        chunk = responses.chunk_of(self._next_message())
        self.usage = chunk.usage or self.usage
        return chunk

    def cancel(self) -> None:
        """End the request; iteration stops, from another thread too. After the
        end of the stream it does nothing."""
        self._is_cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def _begin(self) -> None:
        with self._connection.beginning():
            self._call = self._open_call(self._tries.left_s)

    def _next_message(self) -> pb.OutputChunk:
        while True:
            try:
                message: pb.OutputChunk = next(self._call)
            except grpc.RpcError as error:
                self._wait_to_retry(error)
                self._begin()
                if self._is_cancelled.is_set():
                    self._call.cancel()
            else:
                self._has_begun = True
                return message

    def _wait_to_retry(self, failed: grpc.RpcError) -> None:
        """Raises the failure's error where the request is not to be sent again."""
        if not self._is_cancelled.is_set():
            error = self._connection.error(cast(FailedCall, failed), self._tries.timeout_s)
            delay_s = None if self._has_begun else self._tries.next_delay_s(error)
            if delay_s is None:
                raise error from failed
            self._is_cancelled.wait(delay_s)
        if self._is_cancelled.is_set():
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()

"""A request of the blocking client on its way, sent again where that may be."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import grpc

from coterie.connection import Connection
from coterie.errors import FailedCall, UnavailableError
from coterie.repetition import Repetition
from coterie.retry import Attempts

M = TypeVar("M")


class Cancelled(Exception):
    """Raised to who waits for messages of a request that was cancelled."""


class BlockingCall(Generic[M]):
    """The messages of one request, over as many tries as it takes to begin.

    `open_call` gets the seconds that are left and gives gRPC's call; `next_of` waits for
    the next message of one, and raises as gRPC does.
    """

    def __init__(
        self,
        open_call: Callable[[float | None], Any],
        next_of: Callable[[Any], M],
        connection: Connection,
        tries: Attempts,
        repetition: Repetition,
    ) -> None:
        self._is_cancelled = threading.Event()
        self._call: Any = None
        self._open_call = open_call
        self._next_of = next_of
        self._connection = connection
        self._tries = tries
        self._repetition = repetition

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has ended it."""
        return self._is_cancelled.is_set()

    def begin(self) -> None:
        """Send the request. Raises UnavailableError on a client that is closed."""
        with self._connection.beginning():
            self._call = self._open_call(self._tries.left_s)
        if self.is_cancelled:
            self._call.cancel()

    def next_message(self) -> M:
        """Raises what the request failed with, and Cancelled after `cancel`."""
        while True:
            try:
                message = self._next_of(self._call)
            except (grpc.RpcError, grpc.FutureCancelledError) as failed:
                self._wait_to_retry(failed)
                self.begin()
                continue
            self._tries.note_answer()
            try:
                rest: M | None = self._repetition.rest_of(message)
            except UnavailableError:
                self._call.cancel()
                raise
            if rest is not None:
                return rest

    def cancel(self) -> None:
        """End the request, from any thread; after its end this does nothing."""
        self._is_cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def _wait_to_retry(self, failed: Exception) -> None:
        """Raises the failure's error where the request is not to be sent again."""
        if not self.is_cancelled:
            error = self._connection.error(cast(FailedCall, failed), self._tries.timeout_s)
            delay_s = self._tries.next_delay_s(error, self._repetition)
            if delay_s is None:
                raise error from failed
            self._repetition.begin_again(error)
            self._is_cancelled.wait(delay_s)
        if self.is_cancelled:
            raise Cancelled from failed

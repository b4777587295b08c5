"""What a method streams to its client, over gRPC."""

import asyncio
from typing import Any

from deployments.gateway.rpc.answer import Context
from infra.errors import DeadlineError

CLIENT_TIMEOUT_S = 60.0


class StreamWriter:
    """Sends the messages of one stream, each after the one before.

    The headers go ahead by themselves. gRPC would send them along with the first message,
    and again with the status where that message's write was cancelled; its core refuses
    those, and the call would never end.
    """

    def __init__(self, context: Context, timeout_s: float) -> None:
        """A client may leave a message untaken for `timeout_s`."""
        self._context = context
        self._timeout_s = timeout_s
        self._is_open = False
        # gRPC takes one message at a time.
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Send the headers; needed before what writes may be cancelled.

        Otherwise the first message does it, so that a stream that fails before has a
        status alone, which gRPC's clients may retry.
        """
        self._is_open = True
        await self._context.send_initial_metadata(())

    async def write(self, message: Any) -> None:
        """Send one message. Raises DeadlineError where the client takes none of what waits
        for it, though it keeps the stream."""
        async with self._turn:
            if not self._is_open:
                await self.open()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._context.write(message)
            except TimeoutError:
                words = f"the client has taken nothing of its answer for {self._timeout_s:g} s"
                raise DeadlineError(words) from None

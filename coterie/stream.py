"""A stream of the blocking client. `stream_async` is the same for asyncio."""

from types import TracebackType
from typing import Self

from coterie import responses
from coterie.blocking_call import BlockingCall, Cancelled
from coterie.types import Chunk, Usage
from coterie.uninterrupted import ReadAhead, is_interruptible, uninterrupted
from coterie.v1 import inference_pb2 as pb


class Stream:
    """The chunks of one request as they arrive; iterate it once.

    Leaving early (`break`, an exception, the end of a `with` block, dropping
    the last reference) cancels the request in the cluster. `usage` is None
    until the last chunk has come. A Ctrl-C while it is iterated leaves the
    client as good as new.
    """

    def __init__(self, call: BlockingCall[pb.OutputChunk]) -> None:
        self._call = call
        self._has_ended = False
        self._ahead: ReadAhead[pb.OutputChunk] | None = None
        self.usage: Usage | None = None
        uninterrupted(call.begin)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        if self._call.is_cancelled:
            raise StopIteration
        try:
            chunk = responses.chunk_of(self._next_message())
        except Cancelled:
            raise StopIteration from None
        except Exception:
            self._has_ended = True
            raise
        self.usage = chunk.usage or self.usage
        return chunk

    def cancel(self) -> None:
        """End the request; iteration stops, from another thread too. After the
        end of the stream it does nothing."""
        if not self._has_ended:
            uninterrupted(self._call.cancel)

    def _next_message(self) -> pb.OutputChunk:
        if self._ahead is None:
            if not is_interruptible():
                return self._call.next_message()
            self._ahead = ReadAhead(self._call.next_message)
        return self._ahead.next()

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
        if not self._has_ended:
            self._call.cancel()

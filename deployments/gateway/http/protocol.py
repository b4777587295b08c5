"""uvicorn's HTTP protocol with limits on what a client sends, and on the wait for it.

Without them a client may send one header for ever, or half a body and nothing more,
before anything could be asked of it; or ask for much, and read none of it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.gateway.checks import MAX_METADATA_BYTES

log = logging.getLogger(__name__)

_REFUSAL = b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = _REFUSAL % b"431 Request Header Fields Too Large"
_TOO_SLOW = _REFUSAL % b"408 Request Timeout"


class LimitedHttpProtocol(HttpToolsProtocol):
    """Ends a connection over which come more than `MAX_METADATA_BYTES` of a request
    without any of its body, or whose client takes more than `client_timeout_s` to send
    a whole request, or takes nothing for so long of an answer that waits for it.

    One read may bring more than the limit, as it brings the body too; what is kept
    beyond it is at most such a read. A connection that is idle after an answer is
    ended by uvicorn, after `keep_alive_s`.
    """

    client_timeout_s: ClassVar[float]

    _num_head_bytes = 0
    _is_in_head = True
    _is_in_request = False
    _num_unsent_bytes = 0
    _reading: "_Timer"
    _writing: "_Timer"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._reading = _Timer(self.loop, self.client_timeout_s, self._end_slow_sender)
        self._writing = _Timer(self.loop, self.client_timeout_s, self._end_slow_reader)
        self._reading.restart()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._reading.stop()
        self._writing.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        # Not the first pause of this answer, perhaps: then the client has taken some.
        self._watch_reader()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._num_head_bytes += len(data)
        super().data_received(data)
        if self._num_head_bytes > MAX_METADATA_BYTES and not self.transport.is_closing():
            log.warning("ending a connection: its request's head is over the limit")
            self._refuse(_TOO_LARGE)
        if not self._is_in_request and self._is_idle():
            self._end_when_idle()

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        super().on_message_begin()
        self._is_in_request = True
        self._reading.restart()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser; trailers and the like are counted as a head is."""
        self._num_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser; the next request of the connection may follow."""
        super().on_message_complete()
        self._reading.stop()
        self._is_in_request = False
        self._is_in_head = True
        self._num_head_bytes = 0

    def on_response_complete(self) -> None:
        """Called when an answer has been written, if not yet sent."""
        super().on_response_complete()
        self._watch_reader()
        if self._is_in_request:
            # Of a request that came before its turn the rest was not read until now.
            self._reading.restart()

    def _is_idle(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and not self.pipeline

    def _end_when_idle(self) -> None:
        """uvicorn takes the rest of a request that was refused before its end for the
        start of another, and would wait for more for as long as the client stays."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _end_slow_sender(self) -> None:
        is_answering = bool(self.pipeline) or not (
            self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        )
        if is_answering:
            # What is read meanwhile is of the next request; its time has not begun.
            self._reading.restart()
        elif not self.transport.is_closing():
            self._refuse(_TOO_SLOW)

    def _refuse(self, answer: bytes) -> None:
        """End the connection, with this answer if the request has none."""
        if self._is_in_request and (self._is_in_head or not self.cycle.response_started):
            self.transport.write(answer)
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self) -> None:
        """Whatever bytes now wait for the client, it must take some of them in time."""
        self._num_unsent_bytes = self.transport.get_write_buffer_size()
        if self._num_unsent_bytes:
            self._writing.restart()

    def _end_slow_reader(self) -> None:
        num_unsent_bytes = self.transport.get_write_buffer_size()
        if num_unsent_bytes < self._num_unsent_bytes:
            self._watch_reader()
        elif num_unsent_bytes:
            # A mere close would wait for the client to take what is left.
            self.transport.abort()


class _Timer:
    """Calls `act` once it has run for `after_s`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, after_s: float, act: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._after_s = after_s
        self._act = act
        self._handle: asyncio.TimerHandle | None = None

    def restart(self) -> None:
        self.stop()
        self._handle = self._loop.call_later(self._after_s, self._end)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _end(self) -> None:
        self._handle = None
        self._act()


def limited_http_protocol(client_timeout_s: float) -> type[LimitedHttpProtocol]:
    """The protocol with this limit, for uvicorn's `Config.http`."""

    class Limited(LimitedHttpProtocol):
        pass

    Limited.client_timeout_s = client_timeout_s
    return Limited

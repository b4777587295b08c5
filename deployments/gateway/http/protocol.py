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
    """Ends a connection whose request has a head of over `MAX_METADATA_BYTES`, or
    whose client takes more than `client_timeout_s` to send a whole request, or to
    take what waits for it of an answer.

    One read may bring more, as it brings the body too; what is kept beyond the limit
    is at most such a read. A request's time counts from the connection, or from the
    end of the answer before; a connection that is idle after an answer ends sooner,
    by `keep_alive_s`.
    """

    client_timeout_s: ClassVar[float]

    _num_head_bytes = 0
    _is_in_head = True
    _is_in_request = False
    _reading: "_Timer"
    _writing: "_Timer"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._reading = _Timer(self.loop, self.client_timeout_s, self._end_slow_sender)
        self._writing = _Timer(self.loop, self.client_timeout_s, transport.abort)
        self._watch_sender()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._reading.stop()
        self._writing.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._writing.start()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        self._writing.stop()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._num_head_bytes += len(data)
        super().data_received(data)
        is_too_large = self._is_in_head and self._num_head_bytes > MAX_METADATA_BYTES
        if is_too_large and not self.transport.is_closing():
            log.warning("ending a connection: its request's head is over the limit")
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        if not self._is_in_request and self._is_idle():
            self._end_when_idle()
        self._watch_sender()

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        super().on_message_begin()
        self._is_in_request = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called by the parser; the next request of the connection may follow."""
        super().on_message_complete()
        self._is_in_request = False
        self._is_in_head = True
        self._num_head_bytes = 0

    def on_response_complete(self) -> None:
        """Called when an answer has been sent."""
        super().on_response_complete()
        self._watch_sender()

    def _is_idle(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and not self.pipeline

    def _end_when_idle(self) -> None:
        """uvicorn takes the rest of a request that was refused before its end for the
        start of another, and would wait for more for as long as the client stays."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _watch_sender(self) -> None:
        """Count the time in which only the client can go on."""
        is_clients_turn = not self.pipeline and (
            self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        )
        if is_clients_turn:
            self._reading.start()
        else:
            self._reading.stop()

    def _end_slow_sender(self) -> None:
        if self.transport.is_closing():
            # It waits to write its last bytes, and they are not taken.
            self.transport.abort()
            return
        is_amid_answer = self.cycle is not None and (
            self.cycle.response_started and not self.cycle.response_complete
        )
        if self._is_in_request and not is_amid_answer:
            self.transport.write(_TOO_SLOW)
        self.transport.close()
        self._reading.start()


class _Timer:
    """Calls `act` once it has run for `after_s`; started again, it runs on."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, after_s: float, act: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._after_s = after_s
        self._act = act
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
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

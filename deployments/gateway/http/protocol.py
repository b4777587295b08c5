"""uvicorn's HTTP protocol with a limit on the head: request line and headers.

Without it a client may send one header for ever, before anything could be asked of it.
"""

import logging

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.gateway.checks import MAX_METADATA_BYTES

log = logging.getLogger(__name__)

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


class LimitedHttpProtocol(HttpToolsProtocol):
    """Ends a connection whose request has a head of over `MAX_METADATA_BYTES`.

    One read may bring more, as it brings the body too; what is kept beyond the limit
    is at most such a read.
    """

    _num_head_bytes = 0
    _is_in_head = True

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._num_head_bytes += len(data)
        super().data_received(data)
        is_too_large = self._is_in_head and self._num_head_bytes > MAX_METADATA_BYTES
        if is_too_large and not self.transport.is_closing():
            log.warning("ending a connection: its request's head is over the limit")
            self.transport.write(_REFUSAL)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called by the parser; the next request of the connection may follow."""
        super().on_message_complete()
        self._is_in_head = True
        self._num_head_bytes = 0

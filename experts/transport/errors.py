"""What goes wrong between an engine and its expert hosts. None of it reaches a client.

    TransportError
    ├── PeerLostError        the other end died, closed the link, or is silent for too long
    ├── LinkTimeoutError     the other end made no room in time; the link goes on
    ├── FrameTooLargeError   more bytes than the link's largest frame; the link goes on
    ├── RefusedError         no link came about; the message says why
    └── BadFrameError        the bytes are not what the layout says

What an operator can mend (an address, the mode of a folder) is a `ConfigError`.
"""


class TransportError(Exception):
    """Base of the tree; messages have no secrets."""


class PeerLostError(TransportError):
    """The other end of this link is gone. Other links are as they were."""


class LinkTimeoutError(TransportError):
    """No room for the frame within the time given."""


class FrameTooLargeError(TransportError):
    """The frame is larger than the link takes."""


class RefusedError(TransportError):
    """The other end does not want this link, or is not whom it should be."""


class BadFrameError(TransportError):
    """Lengths do not add up, the version is unknown, an index is out of range."""

"""Tells of each error that a door answers, whoever listens.

The doors have many places where an error becomes an answer, before the service and
after it: no valid key, a body that cannot be read, an engine that failed. All pass
through the few functions that call `answered`.
"""

from collections.abc import Callable
from typing import Literal

Listener = Callable[[str, "Transport"], None]
Transport = Literal["grpc", "http"]

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call it with each error's kind and how it went out, until `forget`."""
    _listeners.append(listener)


def forget(listener: Listener) -> None:
    """Do not call it any more; does nothing for one that is not known."""
    if listener in _listeners:
        _listeners.remove(listener)


def answered(kind: str, transport: Transport) -> None:
    """An error of this kind goes out to a client."""
    for listener in _listeners:
        listener(kind, transport)

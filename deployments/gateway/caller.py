"""Who asks: found at the door, once, before any handler runs.

The doors' guards (an interceptor for gRPC, a middleware for HTTP) set it for the
task that answers a request; whatever runs in that task may read it.
"""

from contextvars import ContextVar
from typing import NamedTuple

from router.types import ANONYMOUS, Priority, TenantId


class Caller(NamedTuple):
    """The tenant, and how urgent this request of its is."""

    tenant: TenantId = ANONYMOUS
    priority: Priority = "normal"


NOBODY = Caller()

_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def current_caller() -> Caller:
    """Who asks for what this task does; anonymous where no guard has said."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Say who asks, for the rest of this task and what it starts."""
    _caller.set(caller)

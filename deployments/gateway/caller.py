"""Who asks: found at the door, once, before any handler runs.

The doors' guards (an interceptor for gRPC, a middleware for HTTP) set it for the
task that answers a request; whatever runs in that task may read it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

from router.types import ANONYMOUS, Priority, TenantId


class Caller(NamedTuple):
    """The tenant, and how urgent this request of its is."""

    tenant: TenantId = ANONYMOUS
    priority: Priority = "normal"
    is_operator: bool = False
    """It may read what concerns all tenants."""
    is_known: bool = True
    """It has a valid key, or none is needed."""


NOBODY = Caller()
STRANGER = Caller(is_known=False)
"""Who has no key where there are keys, and asks for what needs none."""

_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
_check: ContextVar[Callable[[], None] | None] = ContextVar("check_caller", default=None)


def current_caller() -> Caller:
    """Who asks for what this task does; anonymous where no guard has said."""
    return _caller.get()


def set_caller(caller: Caller, check: Callable[[], None] | None = None) -> None:
    """Say who asks, for the rest of this task and what it starts.

    `check` raises UnauthenticatedError once the key is valid no more.
    """
    _caller.set(caller)
    _check.set(check)


def check_caller() -> None:
    """For calls that stay open: the caller's key is still valid, a microsecond.

    Raises UnauthenticatedError where it has been revoked or has expired since.
    """
    check = _check.get()
    if check is not None:
        check()

"""Who may ask: from what came with a request to the caller, for both doors."""

import time
from collections.abc import Callable
from typing import NamedTuple, get_args

from deployments.gateway.caller import Caller
from deployments.gateway.security.api_keys import Grant
from deployments.gateway.security.key_file import KeyFile
from infra.errors import ForbiddenError, InvalidArgumentError, UnauthenticatedError
from router.types import ANONYMOUS, Priority

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
PRIORITY = "x-priority"

_SCHEME = "bearer "
_PRIORITIES: dict[str, Priority] = {word: word for word in get_args(Priority)}


class Credentials(NamedTuple):
    """The headers (HTTP) or metadata (gRPC) that say who asks."""

    authorization: str | None = None
    api_key: str | None = None
    priority: str | None = None

    @property
    def key(self) -> str | None:
        """The API key: a bearer token, else `x-api-key`."""
        given = self.authorization or ""
        if given[: len(_SCHEME)].lower() == _SCHEME:
            return given[len(_SCHEME) :].strip()
        return self.api_key


class Guard:
    """Asks for a key where there are keys; without a key file all are anonymous."""

    def __init__(self, keys: KeyFile | None, now_s: Callable[[], float] = time.time) -> None:
        """`now_s` gives seconds since 1970."""
        self._keys = keys
        self._now_s = now_s

    def caller(self, given: Credentials, *, is_for_operators: bool = False) -> Caller:
        """Who asks. It takes some microseconds.

        Raises UnauthenticatedError without a valid key, ForbiddenError for what a
        tenant's key does not open, InvalidArgumentError for an unknown priority.
        """
        tenant = ANONYMOUS
        if self._keys is not None:
            grant = self._grant(given)
            if is_for_operators and not grant.is_operator:
                raise ForbiddenError(
                    "this needs an operator's key; the one given is a tenant's"
                )
            tenant = grant.tenant
        return Caller(tenant, _priority(given.priority))

    def _grant(self, given: Credentials) -> Grant:
        assert self._keys is not None
        key = given.key
        if not key:
            raise UnauthenticatedError(
                f"no API key came with it; send `{AUTHORIZATION}: Bearer KEY`"
            )
        return self._keys.ring.grant_of(key, self._now_s())


def _priority(given: str | None) -> Priority:
    if given is None:
        return "normal"
    if given not in _PRIORITIES:
        raise InvalidArgumentError(
            f"{PRIORITY} must be one of {', '.join(_PRIORITIES)}", param=PRIORITY
        )
    return _PRIORITIES[given]

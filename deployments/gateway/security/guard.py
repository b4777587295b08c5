"""Who may ask: from what came with a request to the caller, for both doors."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, get_args

from deployments.gateway.caller import STRANGER, Caller, set_caller
from deployments.gateway.security.api_keys import Grant
from deployments.gateway.security.key_file import KeyFile
from infra.errors import InvalidArgumentError, UnauthenticatedError
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

    def enter(self, given: Credentials) -> None:
        """Set the caller of this task. It takes some microseconds.

        Raises UnauthenticatedError without a valid key, InvalidArgumentError for an
        unknown priority.
        """
        if self._keys is None:
            set_caller(Caller(ANONYMOUS, _priority(given.priority), is_operator=True))
            return
        grant = self._grant(self._keys, given)
        caller = Caller(grant.tenant, _priority(given.priority), grant.is_operator)
        set_caller(caller, partial(self._check, self._keys, grant))

    def enter_open(self, given: Credentials) -> None:
        """The same for what needs no key and has no priority: who has no valid key is a
        stranger. Raises nothing.
        """
        try:
            self.enter(given._replace(priority=None))
        except UnauthenticatedError:
            set_caller(STRANGER)

    def _grant(self, keys: KeyFile, given: Credentials) -> Grant:
        key = given.key
        if not key:
            raise UnauthenticatedError(
                f"no API key came with it; send `{AUTHORIZATION}: Bearer KEY`"
            )
        return keys.ring.grant_of(key, self._now_s())

    def _check(self, keys: KeyFile, grant: Grant) -> None:
        """The key that was granted so is still granted so. Raises UnauthenticatedError."""
        found = keys.ring.grant_of_digest(grant.digest, self._now_s())
        if found.tenant != grant.tenant:
            raise UnauthenticatedError("the API key is another tenant's by now; connect anew")


def _priority(given: str | None) -> Priority:
    if given is None:
        return "normal"
    if given not in _PRIORITIES:
        raise InvalidArgumentError(
            f"{PRIORITY} must be one of {', '.join(_PRIORITIES)}", param=PRIORITY
        )
    return _PRIORITIES[given]
